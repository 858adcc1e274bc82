//! Errors as answers of axum handlers.

use axum_core::body::Body;
use axum_core::response::{IntoResponse, Response};

use super::{Error, Problem};

/// The status of [`Error::http_status`], and a body of `application/problem+json` (RFC 9457) that is the error's
/// [`Problem`]: a handler's `?` is all that is needed.
///
/// ```no_run
/// use axum::body::Bytes;
/// use axum::extract::{Path, State};
/// use mqtt_agent::{Agent, Error};
///
/// async fn call(State(agent): State<Agent>, Path(id): Path<String>, body: Bytes) -> Result<Bytes, Error> {
///     let call = agent.request(format!("devices/{id}/rpc"), body).reply_to(format!("devices/{id}/rpc/res"));
///     Ok(call.await?.payload().clone())
/// }
/// ```
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
impl IntoResponse for Error {
    fn into_response(self) -> Response {
        self.problem().into_response()
    }
}

/// As that of [`Error`]; with `Retry-After` where it says when to try again.
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        // Texts and numbers only: they can always be written.
        let body = serde_json::to_vec(&self).unwrap_or_default();
        // The fields are anybody's to change: what is no status would be lost, and its answer be 200 OK.
        let status = Some(self.status).filter(|status| (100..1000).contains(status)).unwrap_or(500);
        let mut response = Response::builder().status(status).header("content-type", Self::CONTENT_TYPE);
        if let Some(delay) = self.retry_after {
            response = response.header("retry-after", delay.as_secs());
        }
        response.body(Body::from(body)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handlers_error_is_a_problem_with_its_status() {
        let response = Error::offline().into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.headers()["retry-after"], "1");

        let response = Error::timeout("no reply came in time").into_response();
        assert_eq!(response.status(), 504);
        assert!(!response.headers().contains_key("retry-after"));
    }

    #[test]
    fn a_problem_with_a_status_that_is_none_is_still_an_error() {
        let mut problem = Error::offline().problem();
        problem.status = 42;
        let response = problem.into_response();
        assert_eq!(response.status(), 500);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
    }
}
