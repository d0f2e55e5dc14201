//! gRPC's codes, and what each is elsewhere: an HTTP status, an exit code of `casemate`.

/// The codes of an error, by gRPC's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrpcCode {
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl GrpcCode {
    pub const ALL: [Self; 16] = [
        Self::Cancelled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];

    pub fn number(self) -> i32 {
        self as i32
    }

    /// As gRPC has it for a code that nobody knows: UNKNOWN.
    pub fn from_number(number: i32) -> Self {
        Self::ALL
            .into_iter()
            .find(|code| code.number() == number)
            .unwrap_or(Self::Unknown)
    }

    /// As gRPC's own documents write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cancelled => "CANCELLED",
            Self::Unknown => "UNKNOWN",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::Aborted => "ABORTED",
            Self::OutOfRange => "OUT_OF_RANGE",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Internal => "INTERNAL",
            Self::Unavailable => "UNAVAILABLE",
            Self::DataLoss => "DATA_LOSS",
            Self::Unauthenticated => "UNAUTHENTICATED",
        }
    }

    /// By the mapping in `google/rpc/code.proto`, but for two. Its 499 is no registered status, so a
    /// call that was cancelled is a timeout. A precondition that fails is a conflict with how things
    /// are (409, RFC 9110 section 15.5.10): with 400 a client would look for the fault in its request.
    pub fn http_status(self) -> u16 {
        match self {
            Self::InvalidArgument | Self::OutOfRange => 400,
            Self::Unauthenticated => 401,
            Self::PermissionDenied => 403,
            Self::NotFound => 404,
            Self::Cancelled => 408,
            Self::AlreadyExists | Self::FailedPrecondition | Self::Aborted => 409,
            Self::ResourceExhausted => 429,
            Self::Unknown | Self::Internal | Self::DataLoss => 500,
            Self::Unimplemented => 501,
            Self::Unavailable => 503,
            Self::DeadlineExceeded => 504,
        }
    }

    /// Of `casemate`, by class; its help lists them. 2 is the command line's.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::NotFound => 3,
            Self::InvalidArgument | Self::OutOfRange => 4,
            Self::ResourceExhausted => 5,
            Self::FailedPrecondition | Self::Aborted => 6,
            Self::Unavailable | Self::DeadlineExceeded => 7,
            Self::Internal | Self::DataLoss => 8,
            Self::Unauthenticated | Self::PermissionDenied => 9,
            Self::AlreadyExists => 10,
            Self::Cancelled | Self::Unknown | Self::Unimplemented => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_its_code() {
        for (index, code) in GrpcCode::ALL.into_iter().enumerate() {
            assert_eq!(code.number(), i32::try_from(index).unwrap() + 1);
            assert_eq!(GrpcCode::from_number(code.number()), code);
        }
        assert_eq!(GrpcCode::from_number(0), GrpcCode::Unknown);
        assert_eq!(GrpcCode::from_number(17), GrpcCode::Unknown);
    }

    /// Scripts decide by them.
    #[test]
    fn exit_codes_stay() {
        let exits = GrpcCode::ALL.map(GrpcCode::exit_code);
        assert_eq!(exits, [1, 1, 4, 7, 3, 10, 9, 5, 6, 6, 4, 1, 8, 7, 8, 9]);
    }
}
