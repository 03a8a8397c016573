//! All tasks by name. A new one is a module beside its like (`mod` in `synthetic/mod.rs`, `real/mod.rs` or
//! `pairs/mod.rs`), named in the imports here, and a line in the list.

use crate::TaskEntry;
use crate::pairs::{g2p, translation};
use crate::real::{
    digits, digits_seen_and_heard, electricity, fashion_mnist, forecast, japanese_vowels, mnist,
    pm25, spoken_digits, text, text_classification, timeseries,
};
use crate::synthetic::{adding, copy, formal, mqar, parity, selective_copy};

static REGISTRY: &[TaskEntry] = &[
    adding::ENTRY,
    copy::ENTRY,
    selective_copy::ENTRY,
    mqar::ENTRY,
    parity::ENTRY,
    formal::entry::<formal::EvenPairs>(),
    formal::entry::<formal::ModularArithmetic>(),
    formal::entry::<formal::CycleNavigation>(),
    formal::entry::<formal::StackManipulation>(),
    formal::entry::<formal::ReverseString>(),
    formal::entry::<formal::DuplicateString>(),
    formal::entry::<formal::OddsFirst>(),
    formal::entry::<formal::BucketSort>(),
    digits::ENTRY,
    mnist::ENTRY,
    fashion_mnist::ENTRY,
    electricity::ENTRY,
    japanese_vowels::ENTRY,
    spoken_digits::ENTRY,
    digits_seen_and_heard::ENTRY,
    timeseries::ENTRY,
    forecast::ENTRY,
    pm25::ENTRY,
    text::ENTRY,
    text_classification::ENTRY,
    g2p::ENTRY,
    translation::ENTRY,
];

/// All tasks, the synthetic ones first.
pub fn registry() -> &'static [TaskEntry] {
    REGISTRY
}

/// The task of that name.
pub fn find(name: &str) -> Option<&'static TaskEntry> {
    REGISTRY.iter().find(|entry| entry.name == name)
}
