//! Lays the sources of settings over one another: the file, above it the environment, above that
//! the flags. What lies uppermost counts; defaults fill what nobody gave.
//!
//! All layers are reduced to the same thing, a text per setting together with where it came from,
//! so that a value is read by one piece of code and an error can always name its place. Nothing
//! unknown is passed over in silence: a misspelt key would otherwise be a default in production.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::ConfigError;
use super::settings::{ENVIRONMENT_PREFIX, SETTINGS, Setting};

/// Largest configuration file that is read, in bytes. A real one has a few kilobytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Variables with our prefix that are not settings of a node: the name of the file, those of the
/// other subcommands, and those of the tests and measurements of this tree, which start servers.
const OTHER_VARIABLES: [&str; 5] = [
    "CORACLE_CONFIG",
    "CORACLE_ADDR",
    "CORACLE_KILL_TRIALS",
    "CORACLE_LOADGEN",
    "CORACLE_PAUSE_TRIALS",
];

/// What families of such variables start with.
const OTHER_PREFIXES: [&str; 3] = ["CORACLE_SIM_", "CORACLE_TEST_", "CORACLE_TORTURE_"];

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody gave one.
    Default,
    /// The file.
    File(PathBuf),
    /// The environment.
    Environment(String),
    /// The command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => formatter.write_str("by default"),
            Origin::File(path) => write!(formatter, "in {}", path.display()),
            Origin::Environment(variable) => write!(formatter, "in the variable {variable}"),
            Origin::Flag(flag) => write!(formatter, "in the flag --{flag}"),
        }
    }
}

/// The texts that count, by key.
#[derive(Debug, Default)]
pub struct Layers {
    values: BTreeMap<&'static str, (String, Origin)>,
}

impl Layers {
    /// Reads the sources. `environment` is everything there is; what has not our prefix is left
    /// alone.
    pub fn read(
        flags: (Option<String>, Vec<(&'static Setting, String)>),
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Layers, ConfigError> {
        let (mut file, given) = flags;
        let mut layers = Layers::default();
        let mut from_environment = Vec::new();
        for (variable, value) in environment {
            if !variable.starts_with(ENVIRONMENT_PREFIX) {
                continue;
            }
            if variable == "CORACLE_CONFIG" {
                file = file.or(Some(value));
            } else if let Some(setting) =
                SETTINGS.iter().find(|setting| setting.variable() == variable)
            {
                from_environment.push((setting, value, Origin::Environment(variable)));
            } else if !is_of_others(&variable) {
                let names = SETTINGS.iter().map(Setting::variable);
                return Err(ConfigError::UnknownVariable {
                    similar: similar(&variable, names),
                    variable,
                });
            }
        }
        if let Some(path) = file {
            layers.read_file(Path::new(&path))?;
        }
        for (setting, value, origin) in from_environment {
            layers.values.insert(setting.key, (value, origin));
        }
        for (setting, value) in given {
            layers.values.insert(setting.key, (value, Origin::Flag(setting.flag())));
        }
        Ok(layers)
    }

    /// The text for `key` and where it came from; `None` if nobody gave one.
    pub fn given(&self, key: &'static str) -> Option<(&str, &Origin)> {
        self.values.get(key).map(|(text, origin)| (text.as_str(), origin))
    }

    /// The text for `key`: what was given, or the default.
    ///
    /// # Panics
    /// If there is no such setting, or it has no default that could be written.
    pub fn text(&self, key: &'static str) -> (&str, &Origin) {
        self.given(key).unwrap_or_else(|| {
            let setting = Setting::find(key);
            let default = setting.map_or("(", |setting| setting.default);
            assert!(!default.starts_with('('), "the setting {key} has no default");
            (default, &Origin::Default)
        })
    }

    fn read_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let read_error = |source| ConfigError::FileUnreadable { path: path.to_owned(), source };
        let length = std::fs::metadata(path).map_err(read_error)?.len();
        if length > FILE_BYTES_MAX {
            let reason = format!("it has {length} bytes, more than {FILE_BYTES_MAX}");
            return Err(ConfigError::FileMalformed { path: path.to_owned(), reason });
        }
        let text = std::fs::read_to_string(path).map_err(read_error)?;
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            ConfigError::FileMalformed { path: path.to_owned(), reason: error.to_string() }
        })?;
        for (key, value) in table {
            let Some(setting) = Setting::find(&key) else {
                let names = SETTINGS.iter().map(|setting| setting.key.to_owned());
                let similar = similar(&key, names);
                return Err(ConfigError::UnknownKey { key, path: path.to_owned(), similar });
            };
            let origin = Origin::File(path.to_owned());
            let text = toml_text(&value).map_err(|reason| ConfigError::Value {
                key: setting.key,
                text: value.to_string(),
                origin: origin.clone(),
                reason,
            })?;
            self.values.insert(setting.key, (text, origin));
        }
        Ok(())
    }
}

/// Whether a variable with our prefix is meant for something else than a node.
fn is_of_others(variable: &str) -> bool {
    OTHER_VARIABLES.contains(&variable)
        || OTHER_PREFIXES.iter().any(|prefix| variable.starts_with(prefix))
}

/// A TOML value as a flag would have it: lists joined by commas, tables as `key=value` pairs.
fn toml_text(value: &toml::Value) -> Result<String, String> {
    match value {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Boolean(truth) => Ok(truth.to_string()),
        toml::Value::Array(items) => {
            let texts: Result<Vec<String>, String> = items.iter().map(toml_scalar).collect();
            Ok(texts?.join(","))
        }
        toml::Value::Table(table) => {
            let pairs: Result<Vec<String>, String> = table
                .iter()
                .map(|(key, value)| Ok(format!("{key}={}", toml_scalar(value)?)))
                .collect();
            Ok(pairs?.join(","))
        }
        toml::Value::Float(_) | toml::Value::Datetime(_) => {
            Err("no setting has a value of this type".into())
        }
    }
}

/// An element of a list or a table, which may not nest.
fn toml_scalar(value: &toml::Value) -> Result<String, String> {
    match value {
        toml::Value::Array(_) | toml::Value::Table(_) => Err("lists and tables do not nest".into()),
        scalar => toml_text(scalar),
    }
}

/// The name most like `wrong`, if any is close enough to be what was meant.
fn similar(wrong: &str, names: impl Iterator<Item = String>) -> Option<String> {
    /// Edits that still look like a slip of the fingers.
    const EDITS_MAX: usize = 3;
    let wrong = wrong.replace('-', "_");
    names
        .map(|name| (edits(&wrong, &name), name))
        .filter(|(distance, _)| *distance <= EDITS_MAX)
        .min()
        .map(|(_, name)| name)
}

/// Number of insertions, deletions and substitutions of bytes between two names.
fn edits(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, from) in left.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in right.bytes().enumerate() {
            let substituted = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_count_slips() {
        for (left, right, distance) in
            [("", "", 0), ("shards", "shards", 0), ("shrads", "shards", 2), ("port", "ports", 1)]
        {
            assert_eq!(edits(left, right), distance, "{left} {right}");
        }
    }
}
