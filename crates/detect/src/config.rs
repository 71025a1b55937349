//! What every section of `[detect]` provides, and how it reports what is wrong with it.

use crate::monitor::Detector;

/// A section of the configuration. It is defined beside the code that it controls.
pub(crate) trait DetectorConfig {
    /// The detector, or `None` if it is switched off.
    fn detector(&self) -> Option<Box<dyn Detector>>;

    /// Reports thresholds that make no sense.
    fn problems(&self, problems: &mut Problems<'_>);
}

/// Collects what is wrong with one section.
pub(crate) struct Problems<'a> {
    section: &'static str,
    /// Pairs of path in the file and text.
    found: &'a mut Vec<(String, String)>,
}

impl<'a> Problems<'a> {
    pub(crate) fn of(section: &'static str, found: &'a mut Vec<(String, String)>) -> Self {
        Self { section, found }
    }

    pub(crate) fn at_least(&mut self, key: &str, value: u64, least: u64) {
        if value < least {
            self.report(key, format!("{value} is too little; use {least} or more"));
        }
    }

    pub(crate) fn between(&mut self, key: &str, value: u64, least: u64, most: u64) {
        if !(least..=most).contains(&value) {
            self.report(key, format!("{value} is not between {least} and {most}; use a value in this range"));
        }
    }

    pub(crate) fn report(&mut self, key: &str, text: String) {
        self.found.push((format!("{}.{key}", self.section), text));
    }
}
