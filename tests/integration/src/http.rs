//! An HTTP client that says what it sends and shows what it got, byte for byte.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A request.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: String,
    /// With the query.
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Option<String>,
}

impl Request {
    pub fn new(method: &str, path: &str) -> Self {
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            ..Self::default()
        }
    }

    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    /// With a JSON body.
    pub fn post(path: &str, body: &Value) -> Self {
        Self::new("POST", path).json(&body.to_string())
    }

    pub fn json(self, text: &str) -> Self {
        let request = self.header("Content-Type", "application/json");
        Self {
            body: Some(text.to_owned()),
            ..request
        }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sends it on a connection of its own and reads the whole answer.
    pub async fn send(&self, address: SocketAddr) -> std::io::Result<Answer> {
        let mut stream = self.begin(address).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(Answer::of(&answer))
    }

    /// Sends it and gives the connection, from which the answer can be read.
    pub async fn begin(&self, address: SocketAddr) -> std::io::Result<TcpStream> {
        use std::fmt::Write as _;
        let mut text = format!(
            "{} {} HTTP/1.0\r\nHost: {address}\r\n",
            self.method, self.path
        );
        for (name, value) in &self.headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        if let Some(body) = &self.body {
            let _ = write!(text, "Content-Length: {}\r\n\r\n{body}", body.len());
        } else {
            text.push_str("\r\n");
        }
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(text.as_bytes()).await?;
        Ok(stream)
    }
}

/// What came back.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    fn of(bytes: &[u8]) -> Self {
        let end = bytes
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .unwrap_or(bytes.len());
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.lines();
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let headers = lines.filter_map(|line| line.split_once(':'));
        Self {
            status: status.unwrap_or_default(),
            headers: headers
                .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
                .collect(),
            body: bytes.get(end + 4..).unwrap_or_default().to_vec(),
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!("no JSON ({error}): {} {}", self.status, self.text());
        })
    }

    /// Id of the problem, in the catalogue.
    pub fn problem(&self) -> String {
        let problem = self.json();
        let urn = problem["type"].as_str().unwrap_or_default();
        urn.trim_start_matches("urn:casemate:error:").to_owned()
    }
}
