//! Kubernetes quantities as numbers of bytes.

use std::fmt;

/// A text that is no quantity of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuantityError {
    text: String,
}

impl fmt::Display for QuantityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a quantity of bytes; write for example 500Mi, 20Gi or 1T", self.text)
    }
}

impl std::error::Error for QuantityError {}

const UNITS: [(&str, u64); 13] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("Ei", 1 << 60),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000),
    ("", 1),
];

/// Reads a quantity; a fraction is rounded up to whole bytes, as Kubernetes does.
pub fn parse_bytes(text: &str) -> Result<u64, QuantityError> {
    let wrong = || QuantityError { text: text.into() };
    let (number, unit) = UNITS
        .iter()
        .find_map(|(suffix, unit)| text.strip_suffix(suffix).map(|number| (number, u128::from(*unit))))
        .ok_or_else(wrong)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |part: &str| part.len() <= 18 && part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || number.ends_with('.') {
        return Err(wrong());
    }
    let scale = 10u128.pow(fraction.len() as u32);
    let value: u128 = format!("{whole}{fraction}").parse().map_err(|_| wrong())?;
    // 36 digits of value are below 2^120, a unit at most 2^60: checked.
    let bytes = value.checked_mul(unit).ok_or_else(wrong)?.div_ceil(scale);
    u64::try_from(bytes).map_err(|_| wrong())
}

/// Bytes for people, in binary units with one digit after the point.
pub fn format_bytes(bytes: u64) -> String {
    let unit = UNITS[..6].iter().rev().find(|(_, unit)| bytes >= *unit);
    match unit {
        Some((suffix, unit)) => {
            let tenths = u128::from(bytes) * 10 / u128::from(*unit);
            if tenths.is_multiple_of(10) {
                format!("{}{suffix}", tenths / 10)
            } else {
                format!("{}.{}{suffix}", tenths / 10, tenths % 10)
            }
        }
        None => bytes.to_string(),
    }
}
