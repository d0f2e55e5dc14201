//! Files, data disks and secrets of a request: their form. Whether a file is there is found out when
//! the VM is planned.

use std::collections::BTreeMap;

use casemate_catalogue::ErrorId;
use casemate_proto::v1;

use crate::spec::files::{
    DataDisk, DiskFormat, FileAuthority, FileName, FileNameError, FileWishes, MAX_DATA_DISKS,
};
use crate::spec::printable_start;
use crate::spec::request::{Boot, Secret, SecretFiles};
use crate::vm::shares::{self, SecretError};

/// A field of a request and what is wrong with it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(in crate::api) enum FilesError {
    #[error("{field}: {name:?} is no name of a file: {source}")]
    Name {
        field: String,
        name: String,
        source: FileNameError,
    },
    #[error("{field}: an image has to be named")]
    NoImage { field: String },
    #[error("{field}: {format:?} is none of raw, qcow2")]
    Format { field: String, format: String },
    #[error("files.disk_format: it is the format of `disk`, and the request names none")]
    FormatAlone,
    #[error("files.{role}: the VM boots from {boot}, which has no use for it")]
    NotBooted {
        role: &'static str,
        boot: &'static str,
    },
    #[error("files: the request names a kernel or an initrd, and a disk to boot from")]
    BothBoots,
    #[error("{field}: {id:?} is no id of a disk")]
    DiskId { field: String, id: String },
    #[error("{field}: {id} is the id of another data disk, too")]
    DiskIdTwice { field: String, id: String },
    #[error("data_disks: there are more than {MAX_DATA_DISKS}")]
    TooManyDisks,
    #[error("secrets: {0}")]
    Secret(#[from] SecretError),
}

impl FilesError {
    pub(super) fn id(&self) -> ErrorId {
        match self {
            Self::Name {
                source: FileNameError::Absolute,
                ..
            } => ErrorId::FileNotAllowed,
            Self::Name { .. }
            | Self::FormatAlone
            | Self::NotBooted { .. }
            | Self::BothBoots
            | Self::DiskIdTwice { .. }
            | Self::Secret(SecretError::TooLargeTogether) => ErrorId::RequestMeaning,
            Self::NoImage { .. }
            | Self::Format { .. }
            | Self::DiskId { .. }
            | Self::TooManyDisks
            | Self::Secret(_) => ErrorId::RequestField,
        }
    }

    pub(super) fn field(&self) -> &str {
        match self {
            Self::Name { field, .. }
            | Self::NoImage { field }
            | Self::Format { field, .. }
            | Self::DiskId { field, .. }
            | Self::DiskIdTwice { field, .. } => field,
            Self::FormatAlone => "files.disk_format",
            Self::NotBooted { .. } | Self::BothBoots => "files",
            Self::TooManyDisks => "data_disks",
            Self::Secret(_) => "secrets",
        }
    }

    pub(super) fn remedy(&self) -> &'static str {
        match self {
            Self::Name {
                source: FileNameError::Absolute,
                ..
            } => "give a name below one of the image roots, such as `debian/vmlinuz`",
            Self::Name { .. } => {
                "give a path below one of the image roots, such as `debian/vmlinuz`: at most 255 characters, without `..`"
            }
            Self::NoImage { .. } => "name an image, such as `data/models.qcow2`",
            Self::Format { .. } => "say `raw` or `qcow2`, as the image is",
            Self::FormatAlone => "name a `disk`, or leave `disk_format` out",
            Self::NotBooted { .. } => "leave the file out, or set `boot` to what uses it",
            Self::BothBoots => "name either a kernel with its initrd, or a disk",
            Self::DiskId { .. } => {
                "use 1 to 20 letters, digits, `_` and `-`, the first one a letter"
            }
            Self::DiskIdTwice { .. } => "give each data disk an id of its own",
            Self::TooManyDisks => "use fewer, larger disks",
            Self::Secret(SecretError::Name { .. }) => {
                "use 1 to 63 letters, digits, `.`, `_` and `-`, the first one no `.`"
            }
            Self::Secret(_) => "pass less, and let the guest fetch the rest",
        }
    }
}

pub(super) fn wishes(
    files: Option<v1::Files>,
    data_disks: Vec<v1::DataDisk>,
    boot: Option<Boot>,
    authority: FileAuthority,
) -> Result<FileWishes, FilesError> {
    let files = files.unwrap_or_default();
    let wishes = FileWishes {
        authority,
        kernel: name("files.kernel", &files.kernel, authority)?,
        initrd: name("files.initrd", &files.initrd, authority)?,
        firmware: name("files.firmware", &files.firmware, authority)?,
        igvm: name("files.igvm", &files.igvm, authority)?,
        disk: name("files.disk", &files.disk, authority)?,
        disk_format: match files.disk_format.as_str() {
            "" => None,
            text => Some(format("files.disk_format", text)?),
        },
        data_disks: disks(data_disks, authority)?,
    };
    if wishes.disk.is_none() && wishes.disk_format.is_some() {
        return Err(FilesError::FormatAlone);
    }
    of_one_boot(&wishes, boot)?;
    Ok(wishes)
}

/// A file to boot from that nothing boots from is a wish that would be dropped.
fn of_one_boot(wishes: &FileWishes, boot: Option<Boot>) -> Result<(), FilesError> {
    let of_kernel = match (&wishes.kernel, &wishes.initrd) {
        (Some(_), _) => Some("kernel"),
        (None, Some(_)) => Some("initrd"),
        (None, None) => None,
    };
    match (boot, of_kernel, &wishes.disk) {
        (Some(Boot::Disk), Some(role), _) => Err(FilesError::NotBooted {
            role,
            boot: "its disk",
        }),
        (Some(Boot::Kernel), _, Some(_)) => Err(FilesError::NotBooted {
            role: "disk",
            boot: "a kernel",
        }),
        (None, Some(_), Some(_)) => Err(FilesError::BothBoots),
        _ => Ok(()),
    }
}

fn name(field: &str, text: &str, authority: FileAuthority) -> Result<Option<FileName>, FilesError> {
    if text.is_empty() {
        return Ok(None);
    }
    let name = FileName::parse(text, authority).map_err(|source| FilesError::Name {
        field: field.to_owned(),
        // A long one is told by its beginning.
        name: printable_start(text, 64),
        source,
    })?;
    Ok(Some(name))
}

fn format(field: &str, text: &str) -> Result<DiskFormat, FilesError> {
    DiskFormat::parse(text).ok_or_else(|| FilesError::Format {
        field: field.to_owned(),
        format: printable_start(text, 64),
    })
}

fn disks(disks: Vec<v1::DataDisk>, authority: FileAuthority) -> Result<Vec<DataDisk>, FilesError> {
    if disks.len() > MAX_DATA_DISKS {
        return Err(FilesError::TooManyDisks);
    }
    let mut checked: Vec<DataDisk> = Vec::new();
    for (index, disk) in disks.into_iter().enumerate() {
        let field = |name: &str| format!("data_disks[{index}].{name}");
        if !DataDisk::is_id(&disk.id) {
            return Err(FilesError::DiskId {
                field: field("id"),
                id: printable_start(&disk.id, 64),
            });
        }
        if checked.iter().any(|other| other.id == disk.id) {
            return Err(FilesError::DiskIdTwice {
                field: field("id"),
                id: disk.id,
            });
        }
        let at = field("image");
        let image = name(&at, &disk.image, authority)?;
        checked.push(DataDisk {
            id: disk.id,
            image: image.ok_or(FilesError::NoImage { field: at })?,
            format: format(&field("format"), &disk.format)?,
        });
    }
    Ok(checked)
}

pub(super) fn secrets(secrets: BTreeMap<String, Vec<u8>>) -> Result<SecretFiles, FilesError> {
    let secrets: SecretFiles = secrets
        .into_iter()
        .map(|(name, content)| (name, Secret::new(content)))
        .collect();
    shares::check_secrets(&secrets)?;
    Ok(secrets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(id: &str, image: &str, format: &str) -> v1::DataDisk {
        v1::DataDisk {
            id: id.to_owned(),
            image: image.to_owned(),
            format: format.to_owned(),
        }
    }

    /// A change to no files, the kind of boot, and the error with a part of its words; none: it is
    /// good.
    type Case = (
        fn(&mut v1::Files),
        Option<Boot>,
        Option<(ErrorId, &'static str)>,
    );

    #[test]
    fn files_are_named_below_the_roots_and_for_one_kind_of_boot() {
        let cases: &[Case] = &[
            (|_| {}, None, None),
            (|f| f.kernel = "a/b".to_owned(), None, None),
            (|f| f.kernel = "a/b".to_owned(), Some(Boot::Kernel), None),
            (|f| f.initrd = "a".to_owned(), None, None),
            (|f| f.disk = "a".to_owned(), Some(Boot::Disk), None),
            (
                |f| f.firmware = "../a".to_owned(),
                None,
                Some((ErrorId::RequestMeaning, "files.firmware: \"../a\"")),
            ),
            (
                |f| f.igvm = "/etc/shadow".to_owned(),
                None,
                Some((ErrorId::FileNotAllowed, "files.igvm")),
            ),
            (
                |f| f.kernel = "a\u{1b}".to_owned(),
                None,
                Some((ErrorId::RequestMeaning, "files.kernel: \"a\u{fffd}\"")),
            ),
            (
                |f| f.disk_format = "raw".to_owned(),
                None,
                Some((ErrorId::RequestMeaning, "files.disk_format")),
            ),
            (
                |f| {
                    f.disk = "a".to_owned();
                    f.disk_format = "vmdk".to_owned();
                },
                None,
                Some((ErrorId::RequestField, "\"vmdk\" is none of raw, qcow2")),
            ),
            (
                |f| f.disk = "a".to_owned(),
                Some(Boot::Kernel),
                Some((ErrorId::RequestMeaning, "files.disk")),
            ),
            (
                |f| f.initrd = "a".to_owned(),
                Some(Boot::Disk),
                Some((ErrorId::RequestMeaning, "files.initrd")),
            ),
            (
                |f| {
                    f.disk = "a".to_owned();
                    f.kernel = "b".to_owned();
                },
                None,
                Some((ErrorId::RequestMeaning, "files:")),
            ),
        ];
        for (change, boot, wanted) in cases {
            let mut files = v1::Files::default();
            change(&mut files);
            let what = format!("{files:?}");
            let outcome = wishes(Some(files), Vec::new(), *boot, FileAuthority::BelowRoots);
            match (outcome, wanted) {
                (Ok(_), None) => {}
                (Err(error), Some((id, part))) => {
                    assert_eq!(error.id(), *id, "{what}: {error}");
                    assert!(error.to_string().contains(part), "{what}: {error}");
                }
                (outcome, _) => panic!("{what}: {outcome:?}"),
            }
        }
    }

    #[test]
    fn data_disks_have_ids_of_their_own_an_image_and_a_format() {
        let many = |count: usize| -> Vec<_> {
            (0..count)
                .map(|number| disk(&format!("d{number}"), "a", "raw"))
                .collect()
        };
        for (disks, wanted) in [
            (many(MAX_DATA_DISKS), None),
            (many(MAX_DATA_DISKS + 1), Some("data_disks")),
            (
                vec![disk("a", "x", "raw"), disk("a", "y", "qcow2")],
                Some("data_disks[1].id"),
            ),
            (vec![disk("1", "x", "raw")], Some("data_disks[0].id")),
            (vec![disk("a", "", "raw")], Some("data_disks[0].image")),
            (vec![disk("a", "/x", "raw")], Some("data_disks[0].image")),
            (vec![disk("a", "x", "")], Some("data_disks[0].format")),
            (vec![disk("a", "x", "vmdk")], Some("data_disks[0].format")),
        ] {
            let outcome = wishes(None, disks.clone(), None, FileAuthority::BelowRoots);
            let found = outcome.err().map(|error| error.field().to_owned());
            assert_eq!(found.as_deref(), wanted, "{disks:?}");
        }
    }
}
