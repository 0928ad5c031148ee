//! Counters and gauges, declared once: name, help and type.

/// What a number tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It counts since the start of the process, and only grows.
    Counter,
    /// It is how things stand, and may fall.
    Gauge,
}

impl Kind {
    /// Its name: `counter` or `gauge`.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        }
    }
}

/// A number that is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// As it stands in the answer.
    pub name: &'static str,
    /// One sentence or more, with the unit.
    pub help: &'static str,
    /// What it tells.
    pub kind: Kind,
}

impl Metric {
    /// What [`crate::metrics!`] makes of a line: `help` is a doc comment, with a blank before each of its lines.
    pub const fn new(name: &'static str, help: &'static str, kind: Kind) -> Metric {
        Metric { name, help: help.trim_ascii(), kind }
    }
}

/// Declares a struct of numbers (`u64`), a line each: its doc comment, which is the help too, then `counter` or `gauge`,
/// the name, and `max` where shards are not summed up but the highest is told. What is no number stands behind `with`, and is
/// added up by whoever has it.
///
/// Made from it: the struct, with fields as visible as it is, `METRICS`, the list of its [`Metric`]s, and `add`, which adds another
/// shard's numbers.
#[macro_export]
macro_rules! metrics {
    (
        $(#[$outer:meta])*
        $vis:vis struct $name:ident {
            $( $(#[doc = $help:literal])+ $kind:ident $field:ident $($join:ident)?; )+
        }
        $( with { $($rest:tt)* } )?
    ) => {
        $(#[$outer])*
        $vis struct $name {
            $( $(#[doc = $help])+ $vis $field: u64, )+
            $( $($rest)* )?
        }

        impl $name {
            /// Name, help and type of each number.
            $vis const METRICS: &[$crate::control::metrics::Metric] = &[
                $( $crate::control::metrics::Metric::new(
                    stringify!($field),
                    concat!($($help),+),
                    $crate::metrics!(@kind $kind),
                ), )+
            ];

            /// Adds the numbers of another shard.
            $vis fn add(&mut self, other: &$name) {
                $( $crate::metrics!(@join $($join)? self.$field, other.$field); )+
            }
        }
    };
    (@kind counter) => { $crate::control::metrics::Kind::Counter };
    (@kind gauge) => { $crate::control::metrics::Kind::Gauge };
    (@join max $to:expr, $from:expr) => { $to = $to.max($from) };
    (@join $to:expr, $from:expr) => { $to += $from };
}

#[cfg(test)]
mod tests {
    //! A line of a list becomes a number with all that is told of it.

    use super::*;

    crate::metrics! {
        /// Of a test.
        #[derive(Debug, Clone, Default, PartialEq)]
        struct Numbers {
            /// Things that
            /// happened.
            counter happened;
            /// Seconds of the oldest.
            gauge oldest_s max;
        }
        with {
            text: Option<String>,
        }
    }

    /// Sums, the highest, names, help and types.
    #[test]
    fn lines_become_numbers() {
        let mut all = Numbers { happened: 1, oldest_s: 5, text: None };
        all.add(&Numbers { happened: 2, oldest_s: 3, text: Some("a".into()) });
        assert_eq!(all, Numbers { happened: 3, oldest_s: 5, text: None });
        let expected = [
            Metric { name: "happened", help: "Things that happened.", kind: Kind::Counter },
            Metric { name: "oldest_s", help: "Seconds of the oldest.", kind: Kind::Gauge },
        ];
        assert_eq!(Numbers::METRICS, expected);
    }
}
