//! The core workloads of YCSB (Cooper et al., *Benchmarking Cloud Serving Systems with YCSB*,
//! 2010), as options of a run.
//!
//! A record is one value, of 1,000 bytes unless the options say otherwise, since a cache has no
//! fields. Workload E scans ranges of keys, which a key-value cache does not have: it is refused
//! rather than imitated by something that costs differently.

use crate::keys::{DEFAULT_THETA, Distribution};
use crate::options::{Options, Writes};
use crate::values::ValueSize;

/// A core workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// Half reads, half updates, zipfian: a session store.
    A,
    /// 95 % reads, 5 % updates, zipfian: tags on photos.
    B,
    /// Only reads, zipfian: profiles.
    C,
    /// 95 % reads that prefer the newest, 5 % inserts: statuses.
    D,
    /// 95 % scans, 5 % inserts: threads of a conversation.
    E,
    /// Half reads, half read-modify-writes, zipfian: a user database.
    F,
}

impl Preset {
    /// Bytes of a record: ten fields of a hundred.
    pub const VALUE_SIZE: ValueSize = ValueSize { min: 1000, max: 1000 };

    /// Sets what the workload defines.
    ///
    /// # Errors
    /// If it needs what a key-value cache does not have.
    pub fn apply(self, options: &mut Options) -> Result<(), String> {
        let zipfian = Distribution::Zipf { theta: DEFAULT_THETA };
        let latest = Distribution::Latest { theta: DEFAULT_THETA };
        let (read_share, writes, distribution) = match self {
            Preset::A => (0.5, Writes::Update, zipfian),
            Preset::B => (0.95, Writes::Update, zipfian),
            Preset::C => (1.0, Writes::Update, zipfian),
            Preset::D => (0.95, Writes::Insert, latest),
            Preset::F => (0.5, Writes::Modify, zipfian),
            Preset::E => {
                return Err("ycsb: workload e scans ranges of keys, which a key-value cache does \
                            not have; a, b, c, d and f can be run"
                    .into());
            }
        };
        options.read_share = read_share;
        options.writes = writes;
        options.distribution = distribution;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Mode;

    #[test]
    fn workloads_are_those_of_the_paper_and_scans_are_refused() {
        let address = "127.0.0.1:1".parse().expect("an address");
        let base = Options::new(vec![address], Mode::Resp);
        let zipf = "zipf:0.99";
        for (preset, reads, writes, distribution) in [
            (Preset::A, 0.5, Writes::Update, zipf),
            (Preset::B, 0.95, Writes::Update, zipf),
            (Preset::C, 1.0, Writes::Update, zipf),
            (Preset::D, 0.95, Writes::Insert, "latest:0.99"),
            (Preset::F, 0.5, Writes::Modify, zipf),
        ] {
            let mut options = base.clone();
            preset.apply(&mut options).expect("a workload");
            assert_eq!((options.read_share, options.writes), (reads, writes), "{preset:?}");
            assert_eq!(options.distribution.to_string(), distribution);
            assert_eq!(options.check(), Ok(()));
        }
        let error = Preset::E.apply(&mut base.clone()).expect_err("no scans");
        assert!(error.contains("scans"), "{error}");
    }
}
