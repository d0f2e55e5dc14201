//! The parts of the interfaces, by name.

use std::fmt;
use std::str::FromStr;

/// A part of the interfaces that can be taken away. As text it is `KIND:NAME`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// `nothing:`, to see that the proxy itself is in nobody's way.
    Nothing,
    /// `rpc:casemate.v1.VmService/PauseVm`; answered with UNIMPLEMENTED.
    Rpc(String),
    /// `request:casemate.v1.VmSpec.labels`; not set, wherever in a message it is.
    Request(Field),
    /// `response:casemate.v1.Vm.labels`.
    Response(Field),
    /// `route:GET /v1/vms/{id}`; answered with 404.
    Route(Route),
    /// `query:GET /v1/vms page_token`.
    Query(Route, String),
    /// `header:POST /v1/vms Idempotency-Key`, of a request.
    Header(Route, String),
    /// `answer-header:POST /v1/vms ETag`.
    AnswerHeader(Route, String),
    /// `http-request:VmSpec.labels`; schema and property of the OpenAPI document.
    HttpRequest(Field),
    /// `http-response:Vm.labels`.
    HttpResponse(Field),
    /// `event:GET /v1/events removed`; all events of that name.
    Event(Route, String),
    /// `flag:casemate vm create --label`; `flag:casemate --format` is one of every verb.
    Flag(Flag),
    /// `exit:6`; another one is given in its place.
    Exit(i32),
}

/// A field of a message, or a property of a schema.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Field {
    pub of: String,
    pub name: String,
}

/// A method, and a path as the OpenAPI document has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    pub method: String,
    pub path: String,
}

impl Route {
    /// Whether a request of this method and path comes here.
    pub fn serves(&self, method: &str, path: &str) -> bool {
        self.method == method && fits(&self.path, path)
    }
}

/// Whether a path is one of a template such as `/v1/vms/{id}`.
pub(super) fn fits(template: &str, path: &str) -> bool {
    let is_one = |(wanted, found): (&str, &str)| wanted.starts_with('{') || wanted == found;
    let (wanted, found) = (template.split('/'), path.split('/'));
    wanted.clone().count() == found.clone().count() && wanted.zip(found).all(is_one)
}

/// A flag of a verb of `casemate`; of every verb where there is none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flag {
    pub verb: Vec<String>,
    pub name: String,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.of, self.name)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

impl fmt::Display for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("casemate ")?;
        for word in &self.verb {
            write!(f, "{word} ")?;
        }
        f.write_str(&self.name)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing:"),
            Self::Rpc(path) => write!(f, "rpc:{path}"),
            Self::Request(field) => write!(f, "request:{field}"),
            Self::Response(field) => write!(f, "response:{field}"),
            Self::Route(route) => write!(f, "route:{route}"),
            Self::Query(route, name) => write!(f, "query:{route} {name}"),
            Self::Header(route, name) => write!(f, "header:{route} {name}"),
            Self::AnswerHeader(route, name) => write!(f, "answer-header:{route} {name}"),
            Self::HttpRequest(field) => write!(f, "http-request:{field}"),
            Self::HttpResponse(field) => write!(f, "http-response:{field}"),
            Self::Event(route, name) => write!(f, "event:{route} {name}"),
            Self::Flag(flag) => write!(f, "flag:{flag}"),
            Self::Exit(code) => write!(f, "exit:{code}"),
        }
    }
}

/// What is no part.
#[derive(Debug)]
pub struct NoPart(&'static str);

impl fmt::Display for NoPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is wanted", self.0)
    }
}

impl std::error::Error for NoPart {}

impl FromStr for Part {
    type Err = NoPart;

    fn from_str(text: &str) -> Result<Self, NoPart> {
        let (kind, name) = text.split_once(':').ok_or(NoPart("KIND:NAME"))?;
        Ok(match kind {
            "nothing" => Self::Nothing,
            "rpc" if name.contains('/') => Self::Rpc(name.to_owned()),
            "rpc" => return Err(NoPart("SERVICE/METHOD")),
            "request" => Self::Request(field(name)?),
            "response" => Self::Response(field(name)?),
            "http-request" => Self::HttpRequest(field(name)?),
            "http-response" => Self::HttpResponse(field(name)?),
            "route" => Self::Route(route(name)?),
            "query" | "header" | "answer-header" | "event" => {
                let (place, what) = name
                    .rsplit_once(' ')
                    .ok_or(NoPart("a route and what of it"))?;
                let (route, what) = (route(place)?, what.to_owned());
                match kind {
                    "query" => Self::Query(route, what),
                    "header" => Self::Header(route, what),
                    "answer-header" => Self::AnswerHeader(route, what),
                    _ => Self::Event(route, what),
                }
            }
            "flag" => Self::Flag(flag(name)?),
            "exit" => Self::Exit(name.parse().map_err(|_| NoPart("an exit code"))?),
            _ => return Err(NoPart("a kind of part that there is")),
        })
    }
}

fn field(name: &str) -> Result<Field, NoPart> {
    let (of, name) = name.rsplit_once('.').ok_or(NoPart("MESSAGE.FIELD"))?;
    Ok(Field {
        of: of.to_owned(),
        name: name.to_owned(),
    })
}

fn route(name: &str) -> Result<Route, NoPart> {
    let (method, path) = name.split_once(' ').ok_or(NoPart("METHOD PATH"))?;
    if !path.starts_with('/') {
        return Err(NoPart("METHOD PATH"));
    }
    Ok(Route {
        method: method.to_owned(),
        path: path.to_owned(),
    })
}

fn flag(name: &str) -> Result<Flag, NoPart> {
    let mut words = name.split(' ').map(str::to_owned);
    let (program, name) = (words.next(), words.next_back());
    match (program.as_deref(), name) {
        (Some("casemate"), Some(name)) if name.starts_with("--") => Ok(Flag {
            verb: words.collect(),
            name,
        }),
        _ => Err(NoPart("casemate VERB --FLAG")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_read_as_it_is_written() {
        for text in [
            "nothing:",
            "rpc:casemate.v1.VmService/PauseVm",
            "request:casemate.v1.VmSpec.labels",
            "response:casemate.v1.Vm.labels",
            "route:GET /v1/vms/{id}",
            "query:GET /v1/vms page_token",
            "header:POST /v1/vms Idempotency-Key",
            "answer-header:POST /v1/vms ETag",
            "http-request:VmSpec.labels",
            "http-response:Vm.labels",
            "event:GET /v1/events removed",
            "flag:casemate vm create --label",
            "flag:casemate --format",
            "exit:6",
        ] {
            let part: Part = text.parse().unwrap();
            assert_eq!(part.to_string(), text);
        }
        for text in [
            "",
            "rpc:x",
            "route:/v1",
            "query:GET /v1",
            "flag:x",
            "exit:x",
            "other:x",
        ] {
            assert!(text.parse::<Part>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_route_has_as_many_segments_as_its_path() {
        let of_vm = route("GET /v1/vms/{id}").unwrap();
        for (method, path, wanted) in [
            ("GET", "/v1/vms/7", true),
            ("DELETE", "/v1/vms/7", false),
            ("GET", "/v1/vms", false),
            ("GET", "/v1/vms/7/console", false),
            ("GET", "/v1/backends/7", false),
        ] {
            assert_eq!(of_vm.serves(method, path), wanted, "{method} {path}");
        }
    }
}
