//! What fits a field of a packet: a length of two bytes stands before it (MQTT 5, section 1.5).

/// The largest string or binary field, in bytes.
const MAX: usize = 65_535;

/// Refuses a text that a packet cannot hold; the reason names it by `what`.
pub(crate) fn check_text(what: &str, text: &str) -> Result<(), String> {
    check_bytes(what, text.as_bytes())?;
    match text.contains('\0') {
        true => Err(format!("the {what} contains a NUL [MQTT-1.5.4-2]")),
        false => Ok(()),
    }
}

/// Refuses data that would otherwise be cut without a word.
pub(crate) fn check_bytes(what: &str, data: &[u8]) -> Result<(), String> {
    match data.len() {
        0..=MAX => Ok(()),
        _ => Err(format!("the {what} is over 65,535 bytes")),
    }
}

pub(crate) fn check_user_properties(properties: &[(String, String)]) -> Result<(), String> {
    for (name, value) in properties {
        check_text("name of a user property", name)?;
        check_text("value of a user property", value)?;
    }
    Ok(())
}
