//! A text as tokens: its characters, or byte pairs learned from it.

use std::collections::{BTreeSet, HashSet};

use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::utils::parallelism::set_parallelism;
use tokenizers::{
    Decoder, Model, NormalizerWrapper, PostProcessorWrapper, TokenizerBuilder, TokenizerImpl,
};

use crate::{Error, Result, Writing};

type BytePairs = TokenizerImpl<BPE, NormalizerWrapper, ByteLevel, PostProcessorWrapper, ByteLevel>;

/// The tokens of a text.
pub(super) enum Vocabulary {
    /// One for each character, in order of their code points.
    Characters(Vec<char>),
    /// Byte pairs that are merged, most frequent first, within words (Sennrich et al. 2016; on bytes,
    /// with the blank before a word as a part of it, as in GPT-2).
    BytePairs(Box<BytePairs>),
}

impl Vocabulary {
    /// The characters of a text.
    pub(super) fn characters(text: &[String]) -> Self {
        let characters: BTreeSet<char> = text.iter().flat_map(|part| part.chars()).collect();
        Self::Characters(characters.into_iter().collect())
    }

    /// `size` tokens: the bytes of `text`, and pairs by their frequency in `train`.
    ///
    /// # Errors
    /// When there are more bytes than tokens, or not so many pairs that occur twice.
    pub(super) fn byte_pairs(text: &[String], train: &[String], size: usize) -> Result<Self> {
        let failed = |error: tokenizers::Error| Error::option("vocabulary_size", error.to_string());
        // The order of its results does not depend on threads, but those would not be ours.
        set_parallelism(false);
        let bytes: HashSet<u8> = text.iter().flat_map(|part| part.bytes()).collect();
        let level = ByteLevel::new(false, false, true);
        let mut trainer = BpeTrainer::builder()
            .show_progress(false)
            .vocab_size(size)
            .min_frequency(2)
            .initial_alphabet(bytes.iter().map(|&byte| in_writing(byte)).collect())
            .build();
        let mut tokenizer: BytePairs = TokenizerBuilder::new()
            .with_model(BPE::default())
            .with_normalizer(None)
            .with_pre_tokenizer(Some(level))
            .with_post_processor(None)
            .with_decoder(Some(level))
            .build()
            .map_err(failed)?;
        tokenizer.train(&mut trainer, train.iter()).map_err(failed)?;
        let found = tokenizer.get_model().get_vocab_size();
        if found != size {
            let message = match found < size {
                true => format!("the text has only {found} byte pairs that occur twice"),
                false => format!("must be at least {found}: so many bytes occur in the text"),
            };
            return Err(Error::option("vocabulary_size", message));
        }
        Ok(Self::BytePairs(Box::new(tokenizer)))
    }

    /// How many tokens there are.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Characters(characters) => characters.len(),
            Self::BytePairs(tokenizer) => tokenizer.get_model().get_vocab_size(),
        }
    }

    /// Characters of each token; `None` when each is one. A character of several bytes is counted with
    /// its first.
    pub(super) fn lengths(&self) -> Option<Vec<u32>> {
        let Self::BytePairs(tokenizer) = self else { return None };
        let first = |c: &char| byte(*c).is_some_and(|byte| byte & 0b1100_0000 != 0b1000_0000);
        let count = |token: u32| {
            let written = tokenizer.get_model().id_to_token(token).unwrap_or_default();
            written.chars().filter(first).count() as u32
        };
        Some((0..self.len() as u32).map(count).collect())
    }
}

impl Writing for Vocabulary {
    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let unknown = |c: char| {
            Error::option(
                "text",
                format!("{c:?} does not occur in the text that tokens were made of"),
            )
        };
        match self {
            Self::Characters(characters) => text
                .chars()
                .map(|c| characters.binary_search(&c).map(|at| at as u32).map_err(|_| unknown(c)))
                .collect(),
            Self::BytePairs(tokenizer) => {
                let model = tokenizer.get_model();
                let known = |byte| model.token_to_id(&in_writing(byte).to_string()).is_some();
                // Bytes without a token would be left out.
                let mut buffer = [0; 4];
                if let Some(c) =
                    text.chars().find(|c| !c.encode_utf8(&mut buffer).bytes().all(known))
                {
                    return Err(unknown(c));
                }
                let encoded = tokenizer.encode_fast(text, false);
                let encoded = encoded.map_err(|e| Error::option("text", e.to_string()))?;
                Ok(encoded.get_ids().to_vec())
            }
        }
    }

    fn decode(&self, tokens: &[u32]) -> String {
        match self {
            Self::Characters(characters) => {
                tokens.iter().filter_map(|&token| characters.get(token as usize)).collect()
            }
            Self::BytePairs(tokenizer) => {
                let written = tokens.iter().filter_map(|&t| tokenizer.get_model().id_to_token(t));
                ByteLevel::default().decode(written.collect()).unwrap_or_default()
            }
        }
    }
}

/// How a byte is written in a token (the table of GPT-2): printable Latin-1 as itself, the others from
/// U+0100 on, in order.
fn in_writing(byte: u8) -> char {
    let is_printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if is_printable(&byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|byte| !is_printable(byte)).count() as u32;
    char::from_u32(0x100 + before).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The byte that is written so.
fn byte(written: char) -> Option<u8> {
    (0..=u8::MAX).find(|&byte| in_writing(byte) == written)
}
