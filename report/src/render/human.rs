//! Figures with the units a person expects, three significant digits.

/// What stands for a figure that is not known.
pub(super) const UNKNOWN: &str = "–";

/// A duration in microseconds, such as `870 ns`, `12.3 µs`, `1.24 ms`, `31.0 s`.
pub fn duration_us(us: f64) -> String {
    match us.abs() {
        size if size >= 999_500.0 => format!("{} s", three_digits(us / 1e6)),
        size if size >= 999.5 => format!("{} ms", three_digits(us / 1e3)),
        size if size >= 0.9995 || size == 0.0 => format!("{} µs", three_digits(us)),
        _ => format!("{} ns", three_digits(us * 1e3)),
    }
}

/// A whole number with separators, such as `1,234,567`.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Events a second, such as `8,123/s` or `2.50/s`.
pub fn rate(per_s: f64) -> String {
    format!("{}/s", number(per_s))
}

/// A size such as `512 B`, `2.00 KiB`, `64.0 MiB`.
pub fn bytes(size: f64) -> String {
    let units = ["KiB", "MiB", "GiB"];
    if size < 1024.0 {
        return format!("{} B", number(size));
    }
    let mut scaled = size / 1024.0;
    let mut unit = units[0];
    for larger in &units[1..] {
        if scaled < 999.5 {
            break;
        }
        scaled /= 1024.0;
        unit = larger;
    }
    format!("{} {unit}", three_digits(scaled))
}

/// A number: whole and with separators from 100 on, else three significant digits; whole numbers as they are.
pub(super) fn number(value: f64) -> String {
    if value >= 99.95 || (value >= 0.0 && value.fract() == 0.0) {
        count(value.round() as u64)
    } else {
        three_digits(value)
    }
}

/// `1.23`, `12.3`, `123`: trailing zeros kept, so that columns line up.
fn three_digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Durations change their unit where three digits would not fit, never showing `1000 µs`.
    #[test]
    fn durations_change_unit_before_a_fourth_digit() {
        let shown = [0.0, 0.25, 0.9996, 12.34, 999.4, 999.6, 45_678.0, 999_600.0, 31e6].map(duration_us);
        assert_eq!(
            shown,
            ["0 µs", "250 ns", "1.00 µs", "12.3 µs", "999 µs", "1.00 ms", "45.7 ms", "1.00 s", "31.0 s"]
        );
    }

    /// Counts, rates and sizes carry separators and units.
    #[test]
    fn counts_and_sizes() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([2.5, 0.0, 42.0, 8123.4].map(rate), ["2.50/s", "0/s", "42/s", "8,123/s"]);
        assert_eq!(
            [512.0, 2048.0, 67_108_864.0, 1.5e12].map(bytes),
            ["512 B", "2.00 KiB", "64.0 MiB", "1397 GiB"]
        );
    }
}
