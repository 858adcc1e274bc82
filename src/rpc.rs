//! Calls as devices really speak them: which reply answers which call, and ready-made conventions.

mod correlation;

pub use correlation::Correlation;
pub(crate) use correlation::{Extract, Key};

/// The user property of MQTT 5 that makes a reply an error; its value is the text of the error. [`Agent::serve`] sets it,
/// and [`Agent::request`] makes such a reply [`ErrorKind::Remote`](crate::ErrorKind::Remote).
///
/// [`Agent::serve`]: crate::Agent::serve
/// [`Agent::request`]: crate::Agent::request
pub const ERROR_PROPERTY: &str = "error";

/// The user property beside [`ERROR_PROPERTY`] that has the number of the error, where it has one.
pub const ERROR_CODE_PROPERTY: &str = "error-code";
