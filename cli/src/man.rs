//! `casemate man`: a page for man(1) of every command, from what `--help` is made of.

use std::path::PathBuf;

use clap::CommandFactory as _;
use clap_mangen::Man;

use crate::arguments::Arguments;
use crate::error::CliError;
use crate::screen::Screen;

#[derive(Debug, clap::Args)]
pub(crate) struct ManArguments {
    /// Folder to write a page of every command to; only that of `casemate` itself is printed, if
    /// this is left out.
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

impl ManArguments {
    pub(crate) fn write(&self, screen: &Screen) -> Result<(), CliError> {
        let command = Arguments::command();
        let Some(folder) = &self.dir else {
            let mut page = Vec::new();
            Man::new(command)
                .render(&mut page)
                .map_err(CliError::Output)?;
            return screen.write_raw(&page);
        };
        std::fs::create_dir_all(folder)
            .and_then(|()| clap_mangen::generate_to(command, folder))
            .map_err(|source| CliError::Pages {
                folder: folder.clone(),
                source,
            })
    }
}
