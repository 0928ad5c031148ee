//! Recipients of a message: one number, a range, or a weighted mix.

use std::fmt;
use std::str::FromStr;

use chasqui_runtime::SeededRng;

use super::size::{MIX_PARTS_MAX, weighted};

/// How many recipients the generated messages have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecipientDistribution {
    /// Every message has so many.
    Fixed(usize),
    /// Uniform between both ends, both included.
    Uniform {
        /// The fewest.
        min: usize,
        /// The most.
        max: usize,
    },
    /// Numbers with weights.
    Mix(Vec<(usize, u64)>),
}

/// Numbers of recipients that cannot be read. One line: what, and how to write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipientsError(String);

impl fmt::Display for RecipientsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = &self.0;
        write!(
            f,
            "recipients `{text}`: write a number as 3, a range as 1..5, or numbers with weights as 1:90,10:10"
        )
    }
}

impl std::error::Error for RecipientsError {}

impl RecipientDistribution {
    /// A number from the distribution.
    pub fn sample(&self, rng: &mut SeededRng) -> usize {
        match self {
            Self::Fixed(count) => *count,
            Self::Uniform { min, max } => min + rng.below((max - min + 1) as u64) as usize,
            Self::Mix(parts) => weighted(parts, rng),
        }
    }

    /// The mean number, for estimates.
    pub fn mean(&self) -> f64 {
        match self {
            Self::Fixed(count) => *count as f64,
            Self::Uniform { min, max } => (*min as f64 + *max as f64) / 2.0,
            Self::Mix(parts) => {
                let total: f64 = parts.iter().map(|part| part.1 as f64).sum();
                parts.iter().map(|part| part.0 as f64 * part.1 as f64).sum::<f64>() / total
            }
        }
    }

    /// The number, where there is one alone.
    pub(crate) fn fixed(&self) -> Option<usize> {
        (self.least() == self.most()).then(|| self.most())
    }

    /// The fewest.
    pub(crate) fn least(&self) -> usize {
        match self {
            Self::Fixed(count) => *count,
            Self::Uniform { min, .. } => *min,
            Self::Mix(parts) => parts.iter().map(|part| part.0).min().unwrap_or(0),
        }
    }

    /// The most.
    pub(crate) fn most(&self) -> usize {
        match self {
            Self::Fixed(count) => *count,
            Self::Uniform { max, .. } => *max,
            Self::Mix(parts) => parts.iter().map(|part| part.0).max().unwrap_or(0),
        }
    }
}

impl FromStr for RecipientDistribution {
    type Err = RecipientsError;

    fn from_str(text: &str) -> Result<Self, RecipientsError> {
        let count = |text: &str| text.trim().parse::<usize>().ok();
        let parse = || {
            if let Some((min, max)) = text.split_once("..") {
                let (min, max) = (count(min)?, count(max)?);
                return (min <= max).then_some(Self::Uniform { min, max });
            }
            if !text.contains(':') {
                return count(text).map(Self::Fixed);
            }
            let part = |part: &str| {
                let (recipients, weight) = part.split_once(':')?;
                Some((count(recipients)?, weight.trim().parse::<u32>().ok()?.into()))
            };
            let parts: Vec<(usize, u64)> = text.split(',').map(part).collect::<Option<_>>()?;
            let is_sound = parts.len() <= MIX_PARTS_MAX && parts.iter().any(|part| part.1 > 0);
            is_sound.then_some(Self::Mix(parts))
        };
        parse().ok_or_else(|| RecipientsError(text.to_owned()))
    }
}

impl fmt::Display for RecipientDistribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(count) => count.fmt(f),
            Self::Uniform { min, max } => write!(f, "{min}..{max}"),
            Self::Mix(parts) => {
                let parts: Vec<String> =
                    parts.iter().map(|(recipients, weight)| format!("{recipients}:{weight}")).collect();
                f.write_str(&parts.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every form is read, written as it reads, and drawn from within its bounds with its mean.
    #[test]
    fn forms() {
        let mut rng = SeededRng::new(7);
        for (text, least, most, mean) in
            [("3", 3, 3, 3.0), ("1..5", 1, 5, 3.0), ("1:90,11:10", 1, 11, 2.0), ("2:1,9:0", 2, 9, 2.0)]
        {
            let distribution: RecipientDistribution = text.parse().expect(text);
            assert_eq!(distribution.to_string(), text);
            assert_eq!((distribution.least(), distribution.most()), (least, most), "{text}");
            assert_eq!(distribution.fixed(), (least == most).then_some(most), "{text}");
            let drawn: Vec<usize> = (0..20_000).map(|_| distribution.sample(&mut rng)).collect();
            assert!(drawn.iter().all(|count| (least..=most).contains(count)), "{text}");
            let drawn_mean = drawn.iter().sum::<usize>() as f64 / drawn.len() as f64;
            assert!((drawn_mean - mean).abs() < 0.1 && distribution.mean() == mean, "{text}: {drawn_mean}");
        }
    }

    /// What is no distribution is refused with the forms that there are.
    #[test]
    fn no_distributions() {
        let many = vec!["1:1"; MIX_PARTS_MAX + 1].join(",");
        for text in ["", "-1", "x", "5..1", "1..", "1:0", "1:", "1:2,", "1:-1", "2KiB", many.as_str()] {
            let error = text.parse::<RecipientDistribution>().expect_err(text).to_string();
            assert!(error.starts_with("recipients `") && error.contains("1..5"), "{error}");
        }
    }
}
