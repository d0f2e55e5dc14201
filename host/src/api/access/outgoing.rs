//! Answers on their way: a stream goes on for as long as its caller would still be let in. The clients
//! of the config may be others by now, and a certificate may be revoked.
//!
//! The first message is not held back: a call that was done is answered.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::gate::Gate;
use super::layer::Protocol;
use super::{AccessError, Caller};

/// The body of an answer to a caller.
pub(in crate::api) struct Outgoing<P: Protocol> {
    inner: P::Body,
    gate: Arc<Gate>,
    caller: Caller,
    progress: Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    NothingSent,
    Begun,
    KeptBack,
}

impl<P: Protocol> fmt::Debug for Outgoing<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing")
            .field("progress", &self.progress)
            .finish_non_exhaustive()
    }
}

impl<P: Protocol> Outgoing<P> {
    pub(super) fn new(inner: P::Body, gate: Arc<Gate>, caller: Caller) -> Self {
        Self {
            inner,
            gate,
            caller,
            progress: Progress::NothingSent,
        }
    }
}

impl<P: Protocol> Body for Outgoing<P> {
    type Data = Bytes;
    type Error = <P::Body as Body>::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        if this.progress == Progress::KeptBack {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        let is_data = matches!(&frame, Some(Ok(frame)) if frame.is_data());
        if is_data {
            if this.progress == Progress::Begun && !this.gate.admits_still(&this.caller) {
                this.progress = Progress::KeptBack;
                let error = AccessError::Withdrawn;
                this.caller.refused(&error);
                return Poll::Ready(Some(P::last(&error)));
            }
            this.progress = Progress::Begun;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.progress == Progress::KeptBack || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
