//! Answers that come in pieces: a console, the changes of VMs.

use std::time::Duration;

use tonic::Streaming;

use super::{answer_of, is_from_transport};
use crate::error::CliError;

/// How long the next piece may take.
#[derive(Debug, Clone, Copy)]
pub(super) enum Patience {
    Of(Duration),
    /// The next piece comes when something happens.
    Endless,
}

#[derive(Debug)]
pub(crate) struct Messages<Message> {
    doing: &'static str,
    patience: Patience,
    messages: Streaming<Message>,
}

impl<Message> Messages<Message> {
    pub(super) fn new(
        doing: &'static str,
        patience: Patience,
        messages: Streaming<Message>,
    ) -> Self {
        Self {
            doing,
            patience,
            messages,
        }
    }

    /// `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Message>, CliError> {
        let doing = self.doing;
        match self.patience {
            Patience::Of(timeout) => {
                let limited = tokio::time::timeout(timeout, self.messages.message()).await;
                answer_of(doing, timeout, limited)
            }
            Patience::Endless => self.messages.message().await.map_err(|status| {
                if is_from_transport(&status) {
                    return CliError::BrokenOff { doing };
                }
                CliError::Refused {
                    doing,
                    status: Box::new(status),
                }
            }),
        }
    }

    /// For an answer that should have had no end.
    pub(crate) fn broken_off(&self) -> CliError {
        CliError::BrokenOff { doing: self.doing }
    }
}
