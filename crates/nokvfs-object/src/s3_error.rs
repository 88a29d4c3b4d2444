//! From the SDK's errors to ours.

use std::error::Error;
use std::fmt::Write;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::ObjectError;

/// What one attempt came to.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What to tell the caller if no further attempt helps.
    pub(crate) error: ObjectError,
    /// A further attempt may succeed.
    pub(crate) retry: bool,
    /// The attempt may have taken effect all the same.
    pub(crate) ambiguous: bool,
    /// HTTP status, where there was a response.
    pub(crate) status: Option<u16>,
}

impl Failure {
    /// No further attempt can help.
    pub(crate) fn fatal(error: ObjectError) -> Self {
        Self { error, retry: false, ambiguous: false, status: None }
    }

    /// The connection or the wait for an answer broke.
    pub(crate) fn broken(text: String) -> Self {
        Self { error: ObjectError::Unavailable(text), retry: true, ambiguous: true, status: None }
    }
}

/// Judges an SDK error of the call `what` (operation and key).
pub(crate) fn judge<E>(what: &str, error: SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    match &error {
        SdkError::ServiceError(service) => {
            let (code, message) = (service.err().code(), service.err().message());
            judge_response(what, service.raw().status().as_u16(), code, message)
        }
        SdkError::ConstructionFailure(_) => Failure::fatal(ObjectError::Invalid(format!("{what}: {}", chain(&error)))),
        SdkError::ResponseError(response) => {
            let status = response.raw().status().as_u16();
            // Some gateways in front of a store answer their errors in HTML.
            if status >= 400 {
                return judge_response(what, status, None, None);
            }
            Failure::broken(format!("{what}: {}", chain(&error)))
        }
        SdkError::DispatchFailure(dispatch) => Failure {
            // A refused connection has carried nothing; everything else may have.
            ambiguous: !dispatch.is_io() || !chain(&error).contains("refused"),
            ..Failure::broken(format!("{what}: {}", chain(&error)))
        },
        _ => Failure::broken(format!("{what}: {}", chain(&error))),
    }
}

fn judge_response(what: &str, status: u16, code: Option<&str>, message: Option<&str>) -> Failure {
    let mut text = format!("{what}: {} (HTTP {status})", code.unwrap_or("no error code"));
    if let Some(message) = message.filter(|message| !message.is_empty()) {
        let _ = write!(text, ": {message}");
    }
    let code = code.unwrap_or("");
    let known = match code {
        "NoSuchBucket" => Some(ObjectError::Invalid(format!("{text}; create the bucket or correct its name"))),
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" => {
            Some(ObjectError::Denied(format!("{text}; check the access key and the secret key")))
        }
        "RequestTimeTooSkewed" => Some(ObjectError::Denied(format!("{text}; check this machine's clock"))),
        "PermanentRedirect" | "AuthorizationHeaderMalformed" => {
            Some(ObjectError::Invalid(format!("{text}; check the region and the endpoint")))
        }
        _ => None,
    };
    if let Some(error) = known {
        return Failure { status: Some(status), ..Failure::fatal(error) };
    }
    let busy = matches!(code, "SlowDown" | "RequestTimeout" | "ConditionalRequestConflict" | "OperationAborted");
    let (error, retry, ambiguous) = match status {
        _ if busy => (ObjectError::Unavailable(text), true, code == "RequestTimeout"),
        404 => (ObjectError::NotFound(text), false, false),
        401 | 403 => (ObjectError::Denied(text), false, false),
        408 | 425 | 429 => (ObjectError::Unavailable(text), true, false),
        // Full, and will still be: waiting for the deadline would only hide it.
        507 => (ObjectError::Unavailable(format!("{text}; the store is full, free or add space")), false, false),
        501 => (ObjectError::Invalid(format!("{text}; this store lacks an operation we need")), false, false),
        500.. => (ObjectError::Unavailable(text), true, true),
        _ => (ObjectError::Invalid(text), false, false),
    };
    Failure { error, retry, ambiguous, status: Some(status) }
}

/// An error and its causes in one line; the SDK's own Display tells only the outermost.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            let _ = write!(text, ": {next}");
        }
        cause = error.source();
    }
    text
}
