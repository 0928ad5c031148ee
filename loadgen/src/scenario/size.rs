//! Message sizes: one, a range, a weighted mix, or a lognormal distribution.

use std::fmt;
use std::str::FromStr;

use chasqui_runtime::SeededRng;

/// The largest message that a distribution may ask for: 1 GiB.
pub(crate) const SIZE_MAX: u64 = 1 << 30;
/// z of the 99th percentile of the standard normal distribution.
const NORMAL_P99: f64 = 2.326_347_874_040_841;
/// Parts of a weighted mix: a draw looks at each.
pub(super) const MIX_PARTS_MAX: usize = 64;

/// A number of bytes, written `512`, `2KiB`, `100kB`, `25MiB`, `1GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A size or size distribution that cannot be read. One line: what, and how to write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SizeError(String);

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SizeError {}

const UNITS: [(&str, u64); 8] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("B", 1),
];

impl FromStr for ByteSize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let text = text.trim();
        let (digits, unit) = UNITS
            .iter()
            .find_map(|&(suffix, unit)| Some((text.strip_suffix(suffix)?, unit)))
            .unwrap_or((text, 1));
        let bytes = digits.trim().parse::<u64>().ok().and_then(|count| count.checked_mul(unit));
        bytes.map(ByteSize).ok_or_else(|| {
            SizeError(format!(
                "size `{text}` is no number of bytes: write for example 512, 2KiB, 100kB or 25MiB"
            ))
        })
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (suffix, unit) = UNITS[..3]
            .iter()
            .find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit))
            .copied()
            .unwrap_or(("B", 1));
        write!(f, "{}{suffix}", self.0 / unit)
    }
}

/// How large the generated messages are, header section included, in octets before dot-stuffing.
#[derive(Clone, Debug, PartialEq)]
pub enum SizeDistribution {
    /// Every message has this size.
    Fixed(u64),
    /// Uniform between both ends, both included.
    Uniform {
        /// The smallest size.
        min: u64,
        /// The largest size.
        max: u64,
    },
    /// Lognormal with this median and 99th percentile; samples over 1 GiB are cut to it.
    Lognormal {
        /// Half of the messages are smaller.
        median: u64,
        /// One message in a hundred is larger.
        p99: u64,
    },
    /// Sizes with weights.
    Mix(Vec<(u64, u64)>),
}

impl SizeDistribution {
    /// A size from the distribution.
    pub fn sample(&self, rng: &mut SeededRng) -> u64 {
        match self {
            Self::Fixed(size) => *size,
            Self::Uniform { min, max } => min + rng.below(max - min + 1),
            Self::Lognormal { median, p99 } => {
                let sigma = lognormal_sigma(*median, *p99);
                let size = *median as f64 * (sigma * standard_normal(rng)).exp();
                (size as u64).clamp(1, SIZE_MAX)
            }
            Self::Mix(parts) => weighted(parts, rng),
        }
    }

    /// The mean size, for estimates.
    pub fn mean(&self) -> f64 {
        match self {
            Self::Fixed(size) => *size as f64,
            Self::Uniform { min, max } => (*min as f64 + *max as f64) / 2.0,
            Self::Lognormal { median, p99 } => {
                let sigma = lognormal_sigma(*median, *p99);
                *median as f64 * (sigma * sigma / 2.0).exp()
            }
            Self::Mix(parts) => {
                let total: f64 = parts.iter().map(|part| part.1 as f64).sum();
                parts.iter().map(|part| part.0 as f64 * part.1 as f64).sum::<f64>() / total
            }
        }
    }

    /// The smallest size that was written down; a lognormal distribution has none (its samples are raised to
    /// the size of the header section).
    pub fn smallest(&self) -> Option<u64> {
        match self {
            Self::Fixed(size) => Some(*size),
            Self::Uniform { min, .. } => Some(*min),
            Self::Lognormal { .. } => None,
            Self::Mix(parts) => parts.iter().map(|part| part.0).min(),
        }
    }
}

/// One of these, each as often as its weight says; at least one has a weight.
pub(super) fn weighted<T: Copy>(parts: &[(T, u64)], rng: &mut SeededRng) -> T {
    let total: u64 = parts.iter().map(|part| part.1).sum();
    let mut rest = rng.below(total);
    for &(value, weight) in parts {
        if rest < weight {
            return value;
        }
        rest -= weight;
    }
    parts[parts.len() - 1].0 // unreachable while the weights add up to `total`
}

fn lognormal_sigma(median: u64, p99: u64) -> f64 {
    (p99 as f64 / median as f64).ln() / NORMAL_P99
}

/// Box and Muller's transformation.
fn standard_normal(rng: &mut SeededRng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.unit()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.unit()).cos()
}

impl FromStr for SizeDistribution {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let text = text.trim();
        let distribution = if let Some(rest) = text.strip_prefix("lognormal:") {
            parse_lognormal(text, rest)?
        } else if let Some((min, max)) = text.split_once("..") {
            let (ByteSize(min), ByteSize(max)) = (min.parse()?, max.parse()?);
            if min > max {
                return Err(SizeError(format!(
                    "size `{text}`: the first size is the larger: write MIN..MAX"
                )));
            }
            Self::Uniform { min, max }
        } else if text.contains(':') {
            parse_mix(text)?
        } else {
            let ByteSize(size) = text.parse()?;
            Self::Fixed(size)
        };
        match &distribution {
            Self::Fixed(size) | Self::Uniform { max: size, .. } | Self::Lognormal { p99: size, .. }
                if *size > SIZE_MAX =>
            {
                Err(too_large(text))
            }
            Self::Mix(parts) if parts.iter().any(|part| part.0 > SIZE_MAX) => Err(too_large(text)),
            _ => Ok(distribution),
        }
    }
}

fn too_large(text: &str) -> SizeError {
    SizeError(format!("size `{text}` is over {}: choose a smaller one", ByteSize(SIZE_MAX)))
}

fn parse_lognormal(text: &str, rest: &str) -> Result<SizeDistribution, SizeError> {
    let usage = || SizeError(format!("size `{text}`: write lognormal:median=8KiB,p99=100KiB"));
    let (mut median, mut p99) = (None, None);
    for pair in rest.split(',') {
        let (key, value) = pair.split_once('=').ok_or_else(usage)?;
        let ByteSize(value) = value.parse()?;
        match key.trim() {
            "median" if median.is_none() => median = Some(value),
            "p99" if p99.is_none() => p99 = Some(value),
            _ => return Err(usage()),
        }
    }
    let (median, p99) = (median.ok_or_else(usage)?, p99.ok_or_else(usage)?);
    if median == 0 || p99 < median {
        return Err(SizeError(format!("size `{text}`: the median must be over 0 and at most p99")));
    }
    Ok(SizeDistribution::Lognormal { median, p99 })
}

fn parse_mix(text: &str) -> Result<SizeDistribution, SizeError> {
    let usage =
        || SizeError(format!("size `{text}`: write SIZE:WEIGHT,SIZE:WEIGHT, for example 2KiB:90,1MiB:10"));
    let mut parts = Vec::new();
    for part in text.split(',') {
        let (size, weight) = part.split_once(':').ok_or_else(usage)?;
        let ByteSize(size) = size.parse()?;
        let weight = weight.trim().parse::<u32>().map_err(|_| usage())?;
        parts.push((size, u64::from(weight)));
    }
    if parts.len() > MIX_PARTS_MAX {
        return Err(SizeError(format!("size `{text}` has over {MIX_PARTS_MAX} parts: write fewer")));
    }
    if parts.iter().all(|part| part.1 == 0) {
        return Err(SizeError(format!("size `{text}`: all weights are 0: give at least one a weight")));
    }
    Ok(SizeDistribution::Mix(parts))
}

impl fmt::Display for SizeDistribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => ByteSize(*size).fmt(f),
            Self::Uniform { min, max } => write!(f, "{}..{}", ByteSize(*min), ByteSize(*max)),
            Self::Lognormal { median, p99 } => {
                write!(f, "lognormal:median={},p99={}", ByteSize(*median), ByteSize(*p99))
            }
            Self::Mix(parts) => {
                for (index, (size, weight)) in parts.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma}{}:{weight}", ByteSize(*size))?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> SizeDistribution {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Every form that the documentation shows is read, and is written back as something that reads the same.
    #[test]
    fn forms() {
        assert_eq!(parse("2KiB"), SizeDistribution::Fixed(2048));
        assert_eq!(parse("600"), SizeDistribution::Fixed(600));
        assert_eq!(parse("100kB"), SizeDistribution::Fixed(100_000));
        assert_eq!(parse("1KiB..64KiB"), SizeDistribution::Uniform { min: 1024, max: 65536 });
        let lognormal = SizeDistribution::Lognormal { median: 8192, p99: 102_400 };
        assert_eq!(parse("lognormal:median=8KiB,p99=100KiB"), lognormal);
        let mix = SizeDistribution::Mix(vec![(2048, 90), (102_400, 9), (1 << 20, 1)]);
        assert_eq!(parse("2KiB:90,100KiB:9,1MiB:1"), mix);
        for text in ["2KiB", "600B", "1KiB..64KiB", "lognormal:median=8KiB,p99=100KiB", "2KiB:90,1MiB:1"] {
            assert_eq!(parse(text).to_string(), text);
        }
    }

    /// What cannot be read is refused in one line that shows what was written.
    #[test]
    fn refusals() {
        let bad = [
            "",
            "KiB",
            "2XiB",
            "-1",
            "64KiB..1KiB",
            "1KiB..",
            "2KiB:x",
            "2KiB:0",
            "2KiB:1,",
            "lognormal:median=8KiB",
            "lognormal:median=0,p99=1",
            "lognormal:median=8,p99=1",
            "lognormal:p99=1,mean=1",
            "2GiB",
            "9999999999GiB",
        ];
        for text in bad {
            let error = text.parse::<SizeDistribution>().expect_err(text).to_string();
            assert!(!error.contains('\n') && error.contains('`'), "{error}");
        }
    }

    /// Samples follow the distribution: ends, median, 99th percentile, weights and mean.
    #[test]
    fn samples() {
        let rng = &mut SeededRng::new(1);
        let mut draw = |text: &str| {
            let distribution = parse(text);
            let mut samples: Vec<u64> = (0..100_000).map(|_| distribution.sample(rng)).collect();
            samples.sort_unstable();
            let mean = samples.iter().sum::<u64>() as f64 / samples.len() as f64;
            assert!(
                (mean / distribution.mean() - 1.0).abs() < 0.03,
                "{text}: {mean} {}",
                distribution.mean()
            );
            samples
        };
        let uniform = draw("1KiB..64KiB");
        assert!(uniform[0] >= 1024 && uniform[0] < 1100 && uniform[99_999] <= 65536);
        let lognormal = draw("lognormal:median=8KiB,p99=100KiB");
        assert!((lognormal[50_000] as f64 / 8192.0 - 1.0).abs() < 0.03);
        assert!((lognormal[99_000] as f64 / 102_400.0 - 1.0).abs() < 0.1);
        let mix = draw("2KiB:90,100KiB:9,1MiB:1");
        let large = mix.iter().filter(|size| **size == 1 << 20).count();
        assert!((900..1100).contains(&large), "{large}");
    }
}
