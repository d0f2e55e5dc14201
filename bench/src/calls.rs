//! Calls whose answers are not decoded, so that the time is the server's and not this client's.

use anyhow::{Context, Result};
use prost::bytes::{Buf as _, BufMut as _};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// Sends the bytes of a message as they are; of an answer only its length is kept.
#[derive(Clone, Copy, Debug, Default)]
struct LengthOnly;

impl Codec for LengthOnly {
    type Encode = &'static [u8];
    type Decode = usize;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for LengthOnly {
    type Item = &'static [u8];
    type Error = Status;

    fn encode(&mut self, item: Self::Item, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(item);
        Ok(())
    }
}

impl Decoder for LengthOnly {
    type Item = usize;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<usize>, Status> {
        let length = buffer.remaining();
        buffer.advance(length);
        Ok(Some(length))
    }
}

/// A client of one method that takes an empty message.
#[derive(Debug)]
pub(crate) struct RawCall {
    client: Grpc<Channel>,
    path: PathAndQuery,
}

impl RawCall {
    pub(crate) fn new(channel: Channel, path: &'static str) -> Self {
        Self {
            client: Grpc::new(channel),
            path: PathAndQuery::from_static(path),
        }
    }

    /// Length of the answer in bytes.
    pub(crate) async fn call(&mut self) -> Result<usize> {
        self.client.ready().await.context("the channel is closed")?;
        let answer = self
            .client
            .unary(Request::new(&[][..]), self.path.clone(), LengthOnly)
            .await?;
        Ok(answer.into_inner())
    }
}
