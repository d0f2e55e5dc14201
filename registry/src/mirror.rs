//! Mirrors: a folder or an HTTP address with files that are named by what is in them.
//!
//! `SHA256.wasm` is a component, `SHA256.wasm.sig` and `SHA256.wasm.minisig` are its signatures.
//! Whoever pulls knows the digest, so a mirror need not be trusted, and cannot say which version is
//! the newest.

use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use hyper::StatusCode;
use rustix::fs::OFlags;

use crate::address::Address;
use crate::client::{Component, check_digest};
use crate::digest::Digest;
use crate::error::RegistryError;
use crate::transport::{Answer, Ask, Length, Transport, refused};

#[derive(Clone, Debug)]
pub struct Mirror(Place);

#[derive(Clone, Debug)]
enum Place {
    Folder(PathBuf),
    /// With a `/` at the end of its path.
    Address(Address),
}

impl Mirror {
    /// An address where it begins as one, else a folder.
    pub fn parse(text: &str) -> Result<Self, RegistryError> {
        if !text.starts_with("http://") && !text.starts_with("https://") {
            return Ok(Self(Place::Folder(PathBuf::from(text))));
        }
        let address = |reason: String| RegistryError::MirrorAddress {
            url: text.to_owned(),
            reason,
        };
        let url = Address::parse(text).ok_or_else(|| {
            address("wanted is http(s)://HOST[:PORT]/PATH, without a user, whom all users of this machine would see".to_owned())
        })?;
        if url.has_query() {
            return Err(address("names of files are appended to it".to_owned()));
        }
        let url = match url.path().ends_with('/') {
            true => url,
            false => url.with_path(&format!("{}/", url.path())),
        };
        Ok(Self(Place::Address(url)))
    }

    /// The component of that digest. None where the mirror has it not.
    pub async fn component(
        &self,
        transport: &Transport,
        digest: Digest,
        component: &Component<'_>,
    ) -> Result<Option<Vec<u8>>, RegistryError> {
        let name = format!("{}.wasm", digest.hex());
        let what = self.what(&name);
        match &self.0 {
            Place::Folder(folder) => {
                let content = read(&folder.join(&name), &what, component.largest)?;
                if let Some(content) = &content {
                    check_digest(&what, digest, content)?;
                    component.check_beginning(&what, content)?;
                }
                Ok(content)
            }
            Place::Address(url) => {
                let Some(answer) = found(transport, url, &name, &what).await? else {
                    return Ok(None);
                };
                let length = Length::AtMost(component.largest);
                component
                    .read(answer, &what, length, digest)
                    .await
                    .map(Some)
            }
        }
    }

    /// The signature with that ending, if the mirror has it.
    pub async fn signature(
        &self,
        transport: &Transport,
        digest: Digest,
        ending: &str,
        largest: u64,
    ) -> Result<Option<Vec<u8>>, RegistryError> {
        let name = format!("{}.wasm.{ending}", digest.hex());
        let what = self.what(&name);
        match &self.0 {
            Place::Folder(folder) => read(&folder.join(&name), &what, largest),
            Place::Address(url) => match found(transport, url, &name, &what).await? {
                Some(answer) => {
                    let length = Length::AtMost(largest);
                    answer.body(&what, length, |_| Ok(())).await.map(Some)
                }
                None => Ok(None),
            },
        }
    }

    fn what(&self, name: &str) -> String {
        match &self.0 {
            Place::Folder(folder) => format!("{:?}", folder.join(name).display().to_string()),
            Place::Address(url) => format!("{url}{name}"),
        }
    }
}

impl std::fmt::Display for Mirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Place::Folder(folder) => folder.display().fmt(f),
            Place::Address(url) => url.fmt(f),
        }
    }
}

async fn found(
    transport: &Transport,
    base: &Address,
    name: &str,
    what: &str,
) -> Result<Option<Answer>, RegistryError> {
    let url = base.with_path(&format!("{}{name}", base.path()));
    let answer = transport.send(&Ask::get(url)).await?;
    match answer.status {
        StatusCode::OK => Ok(Some(answer)),
        StatusCode::NOT_FOUND => Ok(None),
        _ => Err(refused(answer, what, false).await),
    }
}

/// A regular file of at most that size. None where there is none of that name.
fn read(path: &Path, what: &str, largest: u64) -> Result<Option<Vec<u8>>, RegistryError> {
    let unreadable = |source| RegistryError::MirrorFile {
        place: what.to_owned(),
        source,
    };
    let opened = std::fs::OpenOptions::new()
        .read(true)
        // A pipe must not hold its reader.
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(unreadable(std::io::Error::other(
            "it is not a regular file",
        )));
    }
    let mut content = Vec::new();
    file.take(largest + 1)
        .read_to_end(&mut content)
        .map_err(unreadable)?;
    if content.len() as u64 > largest {
        return Err(RegistryError::TooLarge {
            what: what.to_owned(),
            size: metadata.len(),
            limit: largest,
        });
    }
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_to_which_names_are_appended() {
        for (text, shown) in [
            ("https://m.example/a", "https://m.example/a/"),
            ("http://m.example", "http://m.example/"),
            ("/srv/mirror", "/srv/mirror"),
        ] {
            assert_eq!(Mirror::parse(text).unwrap().to_string(), shown);
        }
        for text in [
            "https://m.example/?a=b",
            "https://u:p@m.example/",
            "https://",
        ] {
            assert!(Mirror::parse(text).is_err(), "{text}");
        }
    }
}
