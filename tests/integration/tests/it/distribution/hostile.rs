//! A server that answers what it is told to, however wrong that is, and keeps what it was asked.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use casemate_integration::artifacts;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// An answer as it goes over the wire.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// None: it ends with the connection, and nobody knows how long it is.
    pub(crate) length: Option<usize>,
}

impl Answer {
    pub(crate) fn of(body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self {
            status: 200,
            headers: Vec::new(),
            length: Some(body.len()),
            body,
        }
    }

    pub(crate) fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::of("")
        }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
}

type Answers = Arc<Mutex<BTreeMap<String, Answer>>>;

/// Its threads end with the process; each connection has one answer.
pub(crate) struct Server {
    address: SocketAddr,
    answers: Answers,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let server = Self {
            address: listener.local_addr().expect("its address"),
            answers: Arc::default(),
            asked: Arc::default(),
        };
        let (answers, asked) = (Arc::clone(&server.answers), Arc::clone(&server.asked));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answers, asked) = (Arc::clone(&answers), Arc::clone(&asked));
                // A client that goes away is none of this server's business.
                std::thread::spawn(move || drop(serve(stream, &answers, &asked)));
            }
        });
        server
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A path that ends with `*` stands for all that begin with it, where there is no answer of their own.
    pub(crate) fn answer(&self, path: &str, answer: Answer) -> &Self {
        let mut answers = self.answers.lock().expect("nobody panics");
        answers.insert(path.to_owned(), answer);
        self
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("nobody panics").clone()
    }

    /// A repository `a` with a component under a tag, as a registry would have it.
    pub(crate) fn artifact(&self, tag: &str, artifact: &Artifact) -> &Self {
        self.answer(
            &format!("/v2/a/blobs/{}", artifact.digest),
            Answer::of(artifact.content.clone()),
        )
        .answer(&format!("/v2/a/blobs/{}", digest(b"{}")), Answer::of("{}"))
        .answer(
            &format!("/v2/a/manifests/{tag}"),
            Answer::of(artifact.manifest().to_string()),
        )
    }

    pub(crate) fn reference(&self, tag: &str) -> String {
        format!("{}/a:{tag}", self.address)
    }
}

/// What a manifest says of a component, true or not.
#[derive(Clone, Debug)]
pub(crate) struct Artifact {
    pub(crate) content: Vec<u8>,
    pub(crate) digest: String,
    pub(crate) size: usize,
    pub(crate) version: Option<&'static str>,
}

impl Artifact {
    pub(crate) fn of(content: Vec<u8>) -> Self {
        Self {
            digest: digest(&content),
            size: content.len(),
            content,
            version: None,
        }
    }

    pub(crate) fn component() -> Self {
        Self::of(std::fs::read(artifacts::component("plain-kvm")).expect("it was built"))
    }

    pub(crate) fn manifest(&self) -> Value {
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.wasm.config.v0+json",
                "digest": digest(b"{}"),
                "size": 2,
            },
            "layers": [{
                "mediaType": "application/wasm",
                "digest": self.digest,
                "size": self.size,
            }],
        });
        if let Some(version) = self.version {
            manifest["annotations"] = json!({"org.opencontainers.image.version": version});
        }
        manifest
    }
}

pub(crate) fn digest(content: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(content)))
}

fn serve(stream: TcpStream, answers: &Answers, asked: &Mutex<Vec<Asked>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let first = lines.first().cloned().unwrap_or_default();
    let mut words = first.split(' ').map(str::to_owned);
    let method = words.next().unwrap_or_default();
    let path = words.next().unwrap_or_default();
    let header = |name: &str| {
        let mut headers = lines.iter().filter_map(|line| line.split_once(": "));
        let found = headers.find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_owned())
    };
    let authorization = header("authorization");
    // What is left unread when a connection closes may take the answer with it.
    let length = header("content-length").and_then(|length| length.parse().ok());
    std::io::copy(&mut reader.take(length.unwrap_or(0)), &mut std::io::sink())?;
    let answer = {
        let answers = answers.lock().expect("nobody panics");
        // One that asks who is there: with the right word it is let in.
        let of_known = format!("{path} {}", authorization.as_deref().unwrap_or_default());
        let known = authorization.as_ref().and_then(|_| answers.get(&of_known));
        let begins = |(begin, _): &(&String, &Answer)| {
            let begin = begin.strip_suffix('*');
            begin.is_some_and(|begin| path.starts_with(begin))
        };
        let of_many = || answers.iter().find(begins).map(|(_, answer)| answer);
        let answer = known.or_else(|| answers.get(&path)).or_else(of_many);
        answer.cloned()
    };
    asked.lock().expect("nobody panics").push(Asked {
        method,
        path,
        authorization,
    });
    let answer = answer.unwrap_or_else(|| Answer::status(404));
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {} Said\r\nConnection: close\r\n",
        answer.status
    )?;
    for (name, value) in &answer.headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    if let Some(length) = answer.length {
        write!(stream, "Content-Length: {length}\r\n")?;
    }
    stream.write_all(b"\r\n")?;
    stream.write_all(&answer.body)?;
    stream.flush()
}
