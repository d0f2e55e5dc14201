//! Whether requests find the files that they name.

use super::{id, note, pass, warn};
use crate::spec::plan::Finding;
use crate::vm::images::{ImagesConfig, ROOTS};

/// No VM needs a root whose request names no file: what is missing is no failure of the host.
pub(super) fn of_images(images: &ImagesConfig) -> Finding {
    const REMEDY: &str = "make the folder, or set `images.roots` to those that are there";
    if let Some((root, error)) = images.unusable_roots().first() {
        let detail = format!(
            "{} cannot be opened: {error}; requests that name files are refused",
            root.display()
        );
        return warn(id::IMAGES, ROOTS, &detail, REMEDY);
    }
    let roots: Vec<String> = images
        .usable_roots()
        .map(|root| root.display().to_string())
        .collect();
    if roots.is_empty() {
        return note(
            id::IMAGES,
            ROOTS,
            "there is no image root: requests name no files below one",
            REMEDY,
        );
    }
    pass(
        id::IMAGES,
        ROOTS,
        &format!("requests find their files in {}", roots.join(", ")),
    )
}
