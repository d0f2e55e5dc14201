//! gRPC: messages are decoded by the descriptors of the interface, so that every field of every
//! message can be left out, however deep it lies and in streams too.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor, ReflectMessage as _, Value,
};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::part::{Field, Part};
use super::proxy::{Body, Error};
use super::taken;

/// Before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// Answers that are on their way when the daemon closes its connection.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Every message of the interfaces.
pub static DESCRIPTORS: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(casemate_proto::DESCRIPTORS).expect("the descriptors of the interface")
});

pub(super) async fn connection(
    stream: TcpStream,
    daemon: SocketAddr,
    part: Arc<Part>,
) -> Result<(), Error> {
    let upstream = TcpStream::connect(daemon).await?;
    upstream.set_nodelay(true)?;
    stream.set_nodelay(true)?;
    let (sender, upstream) = handshake(TokioExecutor::new(), TokioIo::new(upstream)).await?;
    let upstream = tokio::spawn(upstream);
    let service = service_fn(move |request| call(request, sender.clone(), Arc::clone(&part)));
    let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    tokio::select! {
        ended = &mut served => ended?,
        _ = upstream => {
            served.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(LAST_WORDS, served).await;
        }
    }
    Ok(())
}

async fn call(
    request: Request<Incoming>,
    mut daemon: SendRequest<Body>,
    part: Arc<Part>,
) -> Result<Response<Body>, Error> {
    let path = request.uri().path().trim_start_matches('/').to_owned();
    if matches!(&*part, Part::Rpc(muted) if *muted == path) {
        taken(&part);
        return Ok(unimplemented());
    }
    let method = method(&path);
    let input = method.as_ref().map(MethodDescriptor::input);
    let request = request.map(|body| match (&*part, input) {
        (Part::Request(field), Some(message)) => filtered(body, message, field.clone()),
        _ => as_it_is(body),
    });
    let response = daemon.send_request(request).await?;
    let output = method.as_ref().map(MethodDescriptor::output);
    Ok(response.map(|body| match (&*part, output) {
        (Part::Response(field), Some(message)) => filtered(body, message, field.clone()),
        _ => as_it_is(body),
    }))
}

pub(super) fn as_it_is(body: Incoming) -> Body {
    body.map_err(Error::from).boxed_unsync()
}

fn unimplemented() -> Response<Body> {
    let body = Empty::new().map_err(|never: std::convert::Infallible| match never {});
    let mut response = Response::new(body.boxed_unsync());
    let headers = response.headers_mut();
    for (name, value) in [("content-type", "application/grpc"), ("grpc-status", "12")] {
        headers.insert(name, hyper::header::HeaderValue::from_static(value));
    }
    response
}

/// Of a path; none where it is of another service, such as health.
fn method(path: &str) -> Option<MethodDescriptor> {
    let (service, name) = path.split_once('/')?;
    let service = DESCRIPTORS.get_service_by_name(service)?;
    service.methods().find(|method| method.name() == name)
}

/// A body of messages, each without the field.
fn filtered(mut body: Incoming, message: MessageDescriptor, field: Field) -> Body {
    let (sender, receiver) = mpsc::channel::<Result<Frame<Bytes>, Error>>(1);
    tokio::spawn(async move {
        let mut pending = Vec::new();
        loop {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                // Who reads this left.
                () = sender.closed() => return,
            };
            let frame = match frame {
                None => return,
                Some(Err(error)) => Err(error.into()),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        pending.extend_from_slice(&data);
                        let whole = without_field(&mut pending, &message, &field);
                        if whole.is_empty() {
                            continue;
                        }
                        Ok(Frame::data(whole.into()))
                    }
                    Err(trailers) => Ok(trailers),
                },
            };
            if sender.send(frame).await.is_err() {
                return;
            }
        }
    });
    StreamBody::new(ReceiverStream::new(receiver)).boxed_unsync()
}

/// Takes the whole messages out of `pending`, and gives them without the field.
fn without_field(pending: &mut Vec<u8>, message: &MessageDescriptor, field: &Field) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(length) = pending.get(1..PREFIX) {
        assert_eq!(pending[0], 0, "nobody compresses here");
        let length = u32::from_be_bytes(length.try_into().expect("four bytes"));
        let end = PREFIX + usize::try_from(length).expect("it is in memory");
        let Some(bytes) = pending.get(PREFIX..end) else {
            break;
        };
        let mut decoded = DynamicMessage::decode(message.clone(), bytes).expect("a message");
        if clear(&mut decoded, field) {
            taken(field);
        }
        let encoded = decoded.encode_to_vec();
        let length = u32::try_from(encoded.len()).expect("it is not longer than before");
        whole.push(0);
        whole.extend(length.to_be_bytes());
        whole.extend(encoded);
        pending.drain(..end);
    }
    whole
}

/// Whether there was anything to clear.
fn clear(message: &mut DynamicMessage, field: &Field) -> bool {
    let mut cleared = false;
    if message.descriptor().full_name() == field.of && message.has_field_by_name(&field.name) {
        message.clear_field_by_name(&field.name);
        cleared = true;
    }
    for (_, value) in message.fields_mut() {
        cleared |= clear_in(value, field);
    }
    cleared
}

fn clear_in(value: &mut Value, field: &Field) -> bool {
    match value {
        Value::Message(message) => clear(message, field),
        // All of them, not only the first.
        Value::List(values) => values
            .iter_mut()
            .fold(false, |so_far, value| so_far | clear_in(value, field)),
        Value::Map(values) => values
            .values_mut()
            .fold(false, |so_far, value| so_far | clear_in(value, field)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use casemate_proto::v1;

    use super::*;

    #[test]
    fn a_field_is_cleared_in_every_message_that_came_whole() {
        let vm = |name: &str| v1::Vm {
            id: "1".to_owned(),
            name: name.to_owned(),
            ..v1::Vm::default()
        };
        let list = v1::ListVmsResponse {
            vms: vec![vm("a"), vm("b")],
            ..v1::ListVmsResponse::default()
        };
        let descriptor = DESCRIPTORS
            .get_message_by_name("casemate.v1.ListVmsResponse")
            .unwrap();
        let field = Field {
            of: "casemate.v1.Vm".to_owned(),
            name: "name".to_owned(),
        };
        let mut stream = Vec::new();
        for _ in 0..2 {
            let bytes = list.encode_to_vec();
            stream.push(0);
            stream.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
            stream.extend(bytes);
        }
        let last = stream.pop().unwrap();
        let one = without_field(&mut stream, &descriptor, &field);
        let decoded = v1::ListVmsResponse::decode(&one[PREFIX..]).unwrap();
        assert_eq!(decoded.vms, [vm(""), vm("")]);
        stream.push(last);
        assert_eq!(without_field(&mut stream, &descriptor, &field), one);
        assert!(stream.is_empty());
    }
}
