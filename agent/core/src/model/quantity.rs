//! Kubernetes quantities as integers: CPU in thousandths, everything else in whole units.

use std::fmt;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

/// Thousandths of a unit, so that `100m` of CPU and `1.5Gi` of memory are both exact.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Quantity {
    pub milli: i128,
}

impl Quantity {
    pub const fn from_milli(milli: i128) -> Self {
        Self { milli }
    }

    pub const fn from_units(units: i64) -> Self {
        Self { milli: units as i128 * 1000 }
    }

    /// Rounded up, as the kubelet rounds (`100m` of memory is 1 byte); saturating.
    pub fn units(self) -> i64 {
        let units = self.milli.div_euclid(1000) + i128::from(self.milli.rem_euclid(1000) != 0);
        i64::try_from(units).unwrap_or(if units > 0 { i64::MAX } else { i64::MIN })
    }

    /// Saturating.
    pub fn milli_units(self) -> i64 {
        i64::try_from(self.milli).unwrap_or(if self.milli > 0 { i64::MAX } else { i64::MIN })
    }

    /// Parses the API's text: digits, an optional fraction, then a suffix (`n u m k M G T P E`,
    /// `Ki Mi Gi Ti Pi Ei`) or an exponent (`e3`, `E3`). Fractions below a thousandth round up.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a quantity (examples: 500m, 1.5, 64Mi, 2e9)");
        let (negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(number_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty())
            || fraction.contains('.')
            || whole.len() + fraction.len() > 30
        {
            return Err(bad());
        }
        let (binary_power, decimal_power) = scale_of(suffix).ok_or_else(bad)?;
        let mut value: i128 = format!("{whole}{fraction}").parse().map_err(|_| bad())?;
        // value × 10^(decimal_power − digits of the fraction + 3) × 2^binary_power, in thousandths.
        let exponent = decimal_power - fraction.len() as i32 + 3;
        value = value.checked_mul(1i128 << binary_power).ok_or_else(bad)?;
        if exponent >= 0 {
            let factor = 10i128.checked_pow(exponent.unsigned_abs()).ok_or_else(bad)?;
            value = value.checked_mul(factor).ok_or_else(bad)?;
        } else {
            let divisor = 10i128.checked_pow(exponent.unsigned_abs()).ok_or_else(bad)?;
            value = value / divisor + i128::from(value % divisor != 0);
        }
        Ok(Self { milli: if negative { -value } else { value } })
    }

    pub fn from_api(quantity: &ApiQuantity) -> Result<Self, String> {
        Self::parse(&quantity.0)
    }
}

/// Powers of two and of ten that a suffix stands for.
fn scale_of(suffix: &str) -> Option<(u32, i32)> {
    let known = match suffix {
        "" => (0, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        _ => {
            let digits = suffix.strip_prefix(['e', 'E'])?;
            let power: i32 = digits.parse().ok()?;
            (0, (-30..=30).contains(&power).then_some(power)?)
        }
    };
    Some(known)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.milli % 1000 == 0 {
            write!(f, "{}", self.milli / 1000)
        } else {
            write!(f, "{}m", self.milli)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a140_quantities_parse_as_the_api_writes_them() {
        for (text, milli) in [
            ("0", 0),
            ("1", 1000),
            ("100m", 100),
            ("1.5", 1500),
            (".5", 500),
            ("1Ki", 1_024_000),
            ("1.5Gi", 1_610_612_736_000),
            ("2e3", 2_000_000),
            ("1E", 1_000_000_000_000_000_000_000),
            ("1n", 1),
            ("-5", -5000),
        ] {
            assert_eq!(Quantity::parse(text).map(|q| q.milli), Ok(milli), "{text}");
        }
        for text in ["", "x", "1x", "1.2.3", "1e99", "9999999999999999999999999999999999", "1 Gi"] {
            assert!(Quantity::parse(text).is_err(), "{text}");
        }
        assert_eq!(Quantity::parse("1m").map(Quantity::units), Ok(1));
    }
}
