//! What a backend sees of the host during one call: files, facts and a log.

use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Instant;

use sha2::Digest as _;
use wasmtime::ResourceLimiter;
use wasmtime_wasi::WasiCtxView;

use super::bindings::casemate::tee::{facts, files, log, types};
use super::call_log::SharedLog;
use super::complexity;
use super::digests::{DigestCache, Wanted};
use super::engine::Limits;
use super::wasi::Inert;
use crate::spec::facts::{
    FactAnswer, FactFailure, FactQuestion, FactRecord, FactSource, FactValue,
};
use crate::spec::permissions::{Permissions, is_plain_absolute};
use crate::spec::printable;
use crate::spec::request::RequestFile;

/// Most bytes that one `files.read` returns.
const MAX_READ: u32 = 1 << 20;
/// Most ranges of one digest; a firmware has some dozens of sections.
const MAX_RANGES: usize = 4_096;
/// Most digest bytes that `files.digest-pages` returns.
const MAX_PAGE_DIGESTS: u64 = 4 << 20;
/// Piece in which a file is hashed.
const HASH_PIECE: usize = 256 << 10;
/// Longest argument of a fact; the longest honest one is a path.
const MAX_FACT_ARGUMENT: usize = 4_096;

/// Target of events that tell of what a call asked for and may not have, in the field `asked`: no
/// operator has to read them, and who judges a backend does.
pub const REFUSED_ACCESS: &str = "casemate::backend::refused";

/// What a call may ask for.
#[derive(Clone, Debug)]
pub(super) enum Access {
    /// `describe`: nothing.
    None,
    /// The files of one request, and facts through permissions.
    Host {
        files: Arc<[RequestFile]>,
        facts: Arc<dyn FactSource>,
        /// What an earlier call of the same request was answered: it is answered the same again.
        earlier: FactRecord,
        digests: Arc<DigestCache>,
        permissions: Arc<Permissions>,
    },
}

impl Access {
    pub(super) fn after(mut self, record: FactRecord) -> Self {
        if let Self::Host { earlier, .. } = &mut self {
            *earlier = record;
        }
        self
    }

    fn digests(&self) -> Option<Arc<DigestCache>> {
        match self {
            Self::None => None,
            Self::Host { digests, .. } => Some(Arc::clone(digests)),
        }
    }

    pub(super) fn earlier_facts(&self) -> FactRecord {
        match self {
            Self::None => FactRecord::default(),
            Self::Host { earlier, .. } => earlier.clone(),
        }
    }
}

/// Data of one store.
#[derive(Debug)]
pub(super) struct CallState {
    pub(super) access: Access,
    pub(super) record: FactRecord,
    pub(super) memory: MemoryLimiter,
    pub(super) log: SharedLog,
    /// Host calls end with the call that they are part of: work on a blocking thread is not
    /// cancelled from outside.
    pub(super) deadline: Instant,
    /// Made when a component first asks for it.
    pub(super) wasi: Option<Box<Inert>>,
}

/// Sums over all memories and tables of a store, unlike wasmtime's own limits, which hold for each.
#[derive(Debug)]
pub(super) struct MemoryLimiter {
    memory_left: usize,
    tables_left: usize,
    /// A refused growth makes the guest abort: this tells that from any other trap.
    pub(super) refused: bool,
}

impl MemoryLimiter {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            memory_left: limits.memory_bytes,
            tables_left: limits.table_elements,
            refused: false,
        }
    }
}

fn take(left: &mut usize, current: usize, desired: usize) -> bool {
    let wanted = desired.saturating_sub(current);
    let fits = wanted <= *left;
    if fits {
        *left -= wanted;
    }
    fits
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let fits = take(&mut self.memory_left, current, desired);
        self.refused |= !fits;
        Ok(fits)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let fits = take(&mut self.tables_left, current, desired);
        self.refused |= !fits;
        Ok(fits)
    }

    // What is more was not compiled; wasmtime's own numbers are 10,000 of each.
    fn instances(&self) -> usize {
        complexity::MOST_INSTANCES as usize
    }

    fn tables(&self) -> usize {
        complexity::MOST_TABLES as usize
    }

    fn memories(&self) -> usize {
        complexity::MOST_MEMORIES as usize
    }
}

impl CallState {
    pub(super) fn wasi(&mut self) -> WasiCtxView<'_> {
        let log = &self.log;
        let inert = self.wasi.get_or_insert_with(|| Box::new(Inert::new(log)));
        inert.view()
    }

    fn file(&self, id: u32) -> Result<RequestFile, String> {
        match &self.access {
            Access::None => {
                self.refused(&format!("file {id} in describe"));
                Err("no file can be read in describe".to_owned())
            }
            Access::Host { files, .. } => {
                let file = files.iter().find(|file| file.id == id).cloned();
                file.ok_or_else(|| {
                    self.refused(&format!("file {id}, which is not of this request"));
                    format!("file {id} is not of this request")
                })
            }
        }
    }

    fn refused(&self, asked: &str) {
        tracing::trace!(target: REFUSED_ACCESS, backend = self.log.backend(), asked);
    }

    /// A question that no host answers, whatever was announced and granted.
    fn refused_question(&self, question: &FactQuestion) {
        let question = question.to_string();
        let question = question.as_str();
        tracing::trace!(target: REFUSED_ACCESS, backend = self.log.backend(), question);
    }

    /// Answers from the record where the question was asked before, so that one call sees one
    /// snapshot of the host.
    async fn fact(&mut self, question: FactQuestion) -> wasmtime::Result<FactAnswer> {
        if question.argument().len() > MAX_FACT_ARGUMENT {
            return Ok(Err(FactFailure::Denied));
        }
        if let Some(answer) = self.record.get(&question) {
            return Ok(answer.clone());
        }
        let answer = match &self.access {
            Access::None => {
                self.refused(&format!("{question} in describe"));
                return Ok(Err(FactFailure::Denied));
            }
            Access::Host {
                facts, permissions, ..
            } => {
                if !has_form(&question) {
                    self.refused_question(&question);
                    Err(FactFailure::Denied)
                } else if permissions.allows_fact(&question) {
                    Arc::clone(facts).answer(&question).await
                } else {
                    Err(FactFailure::Denied)
                }
            }
        };
        if !self.record.insert(question, answer.clone()) {
            return Err(wasmtime::Error::msg(
                "more facts were asked for than a call may",
            ));
        }
        Ok(answer)
    }
}

/// A path with `..` or an empty segment is denied whatever the grant says: a pattern is compared
/// with what is written, so what is written has to be what is opened.
fn has_form(question: &FactQuestion) -> bool {
    match question {
        FactQuestion::ReadText(path) => {
            is_plain_absolute(path) && (path.starts_with("/sys/") || path.starts_with("/proc/"))
        }
        FactQuestion::Device(path) => is_plain_absolute(path) && path.starts_with("/dev/"),
        FactQuestion::Socket(path) => is_plain_absolute(path),
        FactQuestion::QmpQuery(command) => {
            command.starts_with("query-")
                && command
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        }
        _ => true,
    }
}

impl types::Host for CallState {}

impl log::Host for CallState {
    fn write(&mut self, level: u8, message: String) -> wasmtime::Result<()> {
        self.log.write(level, &message)
    }
}

impl files::Host for CallState {
    async fn read(&mut self, file: u32, offset: u64, length: u32) -> Result<Vec<u8>, String> {
        let file = self.file(file)?;
        let length = u64::from(length.min(MAX_READ)).min(file.size.saturating_sub(offset));
        blocking(move || {
            let mut buffer = vec![0; usize::try_from(length).expect("at most 1 MiB")];
            let read = read_at(&file, &mut buffer, offset)?;
            buffer.truncate(read);
            Ok(buffer)
        })
        .await
    }

    async fn digest(
        &mut self,
        file: u32,
        algorithm: String,
        ranges: Vec<files::Range>,
    ) -> Result<Vec<u8>, String> {
        let file = self.file(file)?;
        let hasher = Hasher::new(&algorithm)?;
        let deadline = self.deadline;
        if ranges.len() > MAX_RANGES {
            return Err(format!(
                "{} ranges are more than {MAX_RANGES}",
                ranges.len()
            ));
        }
        let mut spans = Vec::with_capacity(ranges.len().max(1));
        for range in &ranges {
            match range.offset.checked_add(range.length) {
                Some(end) if end <= file.size => spans.push((range.offset, range.length)),
                _ => {
                    self.refused(&format!("range {}+{}", range.offset, range.length));
                    return Err(format!(
                        "range {}+{} lies past the end of {}, which has {} bytes",
                        range.offset,
                        range.length,
                        file.label(),
                        file.size
                    ));
                }
            }
        }
        if spans.iter().map(|(_, length)| length).sum::<u64>() > file.size {
            return Err(format!(
                "the ranges are longer than {} together",
                file.label()
            ));
        }
        let cache = self.access.digests().filter(|_| ranges.is_empty());
        if ranges.is_empty() {
            spans.push((0, file.size));
        }
        let compute = move |file: &RequestFile| {
            let mut hasher = hasher;
            for (offset, length) in spans {
                hash_span(file, &mut hasher, offset, length, deadline)?;
            }
            Ok(hasher.finish())
        };
        blocking(move || match cache {
            Some(cache) => kept(&cache, &file, &algorithm, Wanted::Whole, compute),
            None => compute(&file),
        })
        .await
    }

    async fn digest_pages(
        &mut self,
        file: u32,
        algorithm: String,
        page_size: u32,
    ) -> Result<Vec<u8>, String> {
        let file = self.file(file)?;
        let hasher = Hasher::new(&algorithm)?;
        if !page_size.is_power_of_two() || !(4 << 10..=2 << 20).contains(&page_size) {
            return Err(format!(
                "page size {page_size} is no power of two from 4 KiB to 2 MiB"
            ));
        }
        let size = file.size.div_ceil(u64::from(page_size)) * hasher.length();
        if size > MAX_PAGE_DIGESTS {
            return Err(format!(
                "{} has too many pages of {page_size} bytes",
                file.label()
            ));
        }
        let deadline = self.deadline;
        let cache = self.access.digests();
        let compute = move |file: &RequestFile| {
            let page = u64::from(page_size);
            let mut digests = Vec::new();
            for offset in (0..file.size).step_by(page_size as usize) {
                let mut hasher = hasher.clone();
                let length = page.min(file.size - offset);
                hash_span(file, &mut hasher, offset, length, deadline)?;
                let padding = usize::try_from(page - length).expect("at most 2 MiB");
                hasher.update(&vec![0; padding]);
                digests.extend(hasher.finish());
            }
            Ok(digests)
        };
        blocking(move || match cache {
            Some(cache) => kept(&cache, &file, &algorithm, Wanted::Pages(page_size), compute),
            None => compute(&file),
        })
        .await
    }
}

/// A digest of a file that is kept, or computes it.
fn kept(
    cache: &DigestCache,
    file: &RequestFile,
    algorithm: &str,
    wanted: Wanted,
    compute: impl FnOnce(&RequestFile) -> Result<Vec<u8>, String>,
) -> Result<Vec<u8>, String> {
    let handle = file
        .open()
        .map_err(|error| format!("{} cannot be opened: {error}", file.label()))?;
    let lasting = DigestCache::lasting(handle);
    if let Some(lasting) = lasting
        && let Some(known) = cache.get(lasting, algorithm, wanted)
    {
        return Ok(known.to_vec());
    }
    let digest = compute(file)?;
    if let Some(lasting) = lasting {
        cache.put(lasting, handle, algorithm, wanted, &digest);
    }
    Ok(digest)
}

/// The digest of a whole file, which is kept for calls to come.
pub(super) async fn whole_digest(
    cache: &Arc<DigestCache>,
    file: &RequestFile,
    algorithm: &'static str,
    deadline: Instant,
) -> Result<Vec<u8>, String> {
    let (cache, file) = (Arc::clone(cache), file.clone());
    blocking(move || {
        kept(&cache, &file, algorithm, Wanted::Whole, |file| {
            let mut hasher = Hasher::new(algorithm)?;
            hash_span(file, &mut hasher, 0, file.size, deadline)?;
            Ok(hasher.finish())
        })
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err("the host is shutting down".to_owned()),
    }
}

fn read_at(file: &RequestFile, buffer: &mut [u8], offset: u64) -> Result<usize, String> {
    let handle = file
        .open()
        .map_err(|error| format!("{} cannot be opened: {error}", file.label()))?;
    let mut filled = 0;
    while filled < buffer.len() {
        match handle.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("{} cannot be read: {error}", file.label())),
        }
    }
    Ok(filled)
}

fn hash_span(
    file: &RequestFile,
    hasher: &mut Hasher,
    mut offset: u64,
    mut length: u64,
    deadline: Instant,
) -> Result<(), String> {
    let piece = usize::try_from(length).map_or(HASH_PIECE, |length| length.min(HASH_PIECE));
    let mut buffer = vec![0; piece];
    while length > 0 {
        if Instant::now() >= deadline {
            return Err("the call's time is over".to_owned());
        }
        let want = usize::try_from(length).map_or(buffer.len(), |left| left.min(buffer.len()));
        let read = read_at(file, &mut buffer[..want], offset)?;
        if read == 0 {
            return Err(format!("{} became shorter while it was read", file.label()));
        }
        hasher.update(&buffer[..read]);
        offset += read as u64;
        length -= read as u64;
    }
    Ok(())
}

#[derive(Clone)]
enum Hasher {
    Sha256(sha2::Sha256),
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
}

impl Hasher {
    fn new(algorithm: &str) -> Result<Self, String> {
        match algorithm {
            "sha-256" => Ok(Self::Sha256(sha2::Sha256::new())),
            "sha-384" => Ok(Self::Sha384(sha2::Sha384::new())),
            "sha-512" => Ok(Self::Sha512(sha2::Sha512::new())),
            _ => Err(format!(
                "algorithm {:?} is not sha-256, sha-384 or sha-512",
                printable(algorithm)
            )),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha384(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// Bytes of a digest.
    fn length(&self) -> u64 {
        match self {
            Self::Sha256(_) => 32,
            Self::Sha384(_) => 48,
            Self::Sha512(_) => 64,
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Self::Sha256(hasher) => hasher.finalize().to_vec(),
            Self::Sha384(hasher) => hasher.finalize().to_vec(),
            Self::Sha512(hasher) => hasher.finalize().to_vec(),
        }
    }
}

fn failure(failure: FactFailure) -> facts::FactError {
    match failure {
        FactFailure::Absent => facts::FactError::Absent,
        FactFailure::Denied => facts::FactError::Denied,
        FactFailure::Failed(reason) => facts::FactError::Failed(reason),
    }
}

/// A source that answers in the wrong shape is a bug of the host, which must not end the call.
fn wrong_shape<T>() -> Result<T, facts::FactError> {
    Err(facts::FactError::Failed(
        "the host answered in another shape".to_owned(),
    ))
}

fn text_of(answer: FactAnswer) -> Result<String, facts::FactError> {
    match answer.map_err(failure)? {
        FactValue::Text(text) => Ok(text),
        _ => wrong_shape(),
    }
}

fn presence_of(answer: FactAnswer) -> Result<(), facts::FactError> {
    match answer.map_err(failure)? {
        FactValue::Present => Ok(()),
        _ => wrong_shape(),
    }
}

type Fact<T> = wasmtime::Result<Result<T, facts::FactError>>;

impl facts::Host for CallState {
    async fn cpuid(&mut self, leaf: u32, subleaf: u32) -> Fact<facts::CpuidRegisters> {
        let answer = self.fact(FactQuestion::Cpuid { leaf, subleaf }).await?;
        Ok(match answer.map_err(failure) {
            Ok(FactValue::Cpuid { eax, ebx, ecx, edx }) => {
                Ok(facts::CpuidRegisters { eax, ebx, ecx, edx })
            }
            Ok(_) => wrong_shape(),
            Err(error) => Err(error),
        })
    }

    async fn kvm_capability(&mut self, number: u32) -> Fact<i64> {
        let answer = self.fact(FactQuestion::KvmCapability(number)).await?;
        Ok(match answer.map_err(failure) {
            Ok(FactValue::Signed(value)) => Ok(value),
            Ok(_) => wrong_shape(),
            Err(error) => Err(error),
        })
    }

    async fn kvm_device_attribute(&mut self, group: u32, attribute: u64) -> Fact<u64> {
        let answer = self
            .fact(FactQuestion::KvmDeviceAttribute { group, attribute })
            .await?;
        Ok(match answer.map_err(failure) {
            Ok(FactValue::Unsigned(value)) => Ok(value),
            Ok(_) => wrong_shape(),
            Err(error) => Err(error),
        })
    }

    async fn read_text(&mut self, path: String) -> Fact<String> {
        Ok(text_of(self.fact(FactQuestion::ReadText(path)).await?))
    }

    async fn device(&mut self, path: String) -> Fact<()> {
        Ok(presence_of(self.fact(FactQuestion::Device(path)).await?))
    }

    async fn socket(&mut self, path: String) -> Fact<()> {
        Ok(presence_of(self.fact(FactQuestion::Socket(path)).await?))
    }

    async fn qemu_version(&mut self) -> Fact<String> {
        Ok(text_of(self.fact(FactQuestion::QemuVersion).await?))
    }

    async fn qemu_type(&mut self, name: String) -> Fact<Vec<String>> {
        let answer = self.fact(FactQuestion::QemuType(name)).await?;
        Ok(match answer.map_err(failure) {
            Ok(FactValue::Names(names)) => Ok(names),
            Ok(_) => wrong_shape(),
            Err(error) => Err(error),
        })
    }

    async fn qemu_machine(&mut self, alias: String) -> Fact<String> {
        Ok(text_of(self.fact(FactQuestion::QemuMachine(alias)).await?))
    }

    async fn qmp_query(&mut self, command: String) -> Fact<String> {
        Ok(text_of(self.fact(FactQuestion::QmpQuery(command)).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::permissions::FactPattern;

    #[test]
    fn a_wide_grant_does_not_open_a_path_that_climbs() {
        let permissions = Permissions {
            facts: [("read-text", "/sys/*"), ("device", "*"), ("qmp-query", "*")]
                .map(|(fact, pattern)| FactPattern {
                    fact: fact.to_owned(),
                    pattern: pattern.to_owned(),
                })
                .into(),
            ..Permissions::default()
        };
        for (question, allowed) in [
            (FactQuestion::ReadText("/sys/module/kvm/x".to_owned()), true),
            (
                FactQuestion::ReadText("/sys/../proc/1/environ".to_owned()),
                false,
            ),
            (FactQuestion::ReadText("/sys//x".to_owned()), false),
            (FactQuestion::ReadText("/proc/1/environ".to_owned()), false),
            (FactQuestion::Device("/dev/kvm".to_owned()), true),
            (FactQuestion::Device("/etc/shadow".to_owned()), false),
            (FactQuestion::QmpQuery("query-cpus-fast".to_owned()), true),
            (FactQuestion::QmpQuery("quit".to_owned()), false),
            (FactQuestion::QmpQuery("query-x\",\"".to_owned()), false),
        ] {
            let is_asked = has_form(&question) && permissions.allows_fact(&question);
            assert_eq!(is_asked, allowed, "{question}");
        }
    }

    /// Digests of `abc` and of a page of zeros, as `sha256sum` and `sha384sum` print them.
    #[test]
    fn digests_agree_with_published_ones() {
        let mut hasher = Hasher::new("sha-256").unwrap();
        hasher.update(b"abc");
        assert_eq!(
            hex::encode(hasher.finish()),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        let mut hasher = Hasher::new("sha-384").unwrap();
        hasher.update(b"abc");
        assert_eq!(
            hex::encode(hasher.finish()),
            "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed\
             8086072ba1e7cc2358baeca134c825a7"
        );
        assert!(Hasher::new("md5").is_err());
    }
}
