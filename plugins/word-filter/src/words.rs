//! The list of words, and finding them in text.
//!
//! Words match whole, whatever their case: `ass` is not found in `glass`. A word is a run of letters and digits;
//! with leetspeak on, the signs that stand for letters (`4 @ 3 1 ! 0 5 $ 7`) are read as those.

use std::ops::Range;

/// Longer ones are no words that anybody would list.
const MAX_WORD_BYTES: usize = 64;

/// A list of words.
#[derive(Debug)]
pub(crate) struct Words {
    /// Folded words with their hashes, in an open hash table; its length is a power of two, more than twice the
    /// number of words.
    table: Vec<Option<(u32, Box<str>)>>,
    is_empty: bool,
    leetspeak: bool,
    /// How each ASCII byte is read: its folded form inside of a word, 0 outside of words.
    fold: [u8; 128],
}

/// A word while it is read: only its hash is kept, and the word read again if that is one of the list's.
#[derive(Clone, Copy)]
struct Token {
    len: usize,
    hash: u32,
}

impl Words {
    /// Takes the words as the operator wrote them.
    pub(crate) fn parse(list: &[String], leetspeak: bool) -> Result<Self, String> {
        let mut words = Self {
            table: vec![None; (list.len() * 2 + 2).next_power_of_two()],
            is_empty: list.is_empty(),
            leetspeak,
            fold: fold_table(leetspeak),
        };
        for word in list {
            let mut token = Token::EMPTY;
            let mut folded = Vec::new();
            for letter in word.chars() {
                let is_read = words.read(letter, token.len > 0, |byte| {
                    folded.push(byte);
                    token.push(byte);
                });
                if !is_read {
                    return Err(format!(
                        "`{word}` in `words` is not one word: `{letter}` is neither letter nor digit"
                    ));
                }
            }
            if !(1..=MAX_WORD_BYTES).contains(&token.len) {
                return Err(format!(
                    "`{word}` in `words` has {} bytes; 1 to {MAX_WORD_BYTES} are taken",
                    token.len
                ));
            }
            let folded = String::from_utf8_lossy(&folded);
            let mask = words.table.len() - 1;
            let mut slot = token.hash as usize & mask;
            while words.table[slot].is_some() {
                slot = (slot + 1) & mask;
            }
            words.table[slot] = Some((token.hash, folded.into()));
        }
        Ok(words)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// Calls `found` with the place of each listed word, until it answers no.
    pub(crate) fn find(&self, text: &str, mut found: impl FnMut(Range<usize>) -> bool) {
        let mut at = 0;
        while at < text.len() {
            let start = at;
            let mut token = Token::EMPTY;
            let mut end = start;
            while at < text.len() && self.step(text, &mut token, &mut at) {
                end = at;
            }
            if token.len == 0 {
                continue;
            }
            let place = if self.has(token, &text[start..end]) {
                Some(start..end)
            } else if self.leetspeak {
                self.find_without_signs(text, start..end)
            } else {
                None
            };
            if let Some(place) = place
                && !found(place)
            {
                return;
            }
        }
    }

    /// Reads one character into the word; false, and past it, if it does not belong to one.
    #[inline]
    fn step(&self, text: &str, token: &mut Token, at: &mut usize) -> bool {
        let byte = text.as_bytes()[*at];
        if byte.is_ascii() {
            *at += 1;
            let folded = self.fold[usize::from(byte)];
            if folded != 0 {
                token.push(folded);
            }
            return folded != 0;
        }
        let Some(letter) = text[*at..].chars().next() else {
            return false;
        };
        *at += letter.len_utf8();
        self.read(letter, token.len > 0, |byte| token.push(byte))
    }

    /// Hands the folded bytes of a character to `push`; false if it does not belong to a word.
    fn read(&self, letter: char, is_inside: bool, mut push: impl FnMut(u8)) -> bool {
        if let Ok(byte) = u8::try_from(letter)
            && byte.is_ascii()
        {
            let folded = self.fold[usize::from(byte)];
            if folded != 0 {
                push(folded);
            }
            return folded != 0;
        }
        if is_invisible(letter) {
            return is_inside;
        }
        if !letter.is_alphanumeric() {
            return false;
        }
        let mut buffer = [0; 4];
        for lower in letter.to_lowercase() {
            let bytes = lower.encode_utf8(&mut buffer).bytes();
            bytes.for_each(&mut push);
        }
        true
    }

    /// With leetspeak, `darn!` could be `darni`; it is `darn` as well.
    fn find_without_signs(&self, text: &str, place: Range<usize>) -> Option<Range<usize>> {
        let is_sign = |letter: char| letter.is_ascii_punctuation();
        let word = &text[place.clone()];
        let trimmed = word.trim_matches(is_sign);
        if trimmed.len() == word.len() || trimmed.is_empty() {
            return None;
        }
        let start = place.start + (word.len() - word.trim_start_matches(is_sign).len());
        let mut token = Token::EMPTY;
        for letter in trimmed.chars() {
            self.read(letter, true, |byte| token.push(byte));
        }
        self.has(token, trimmed)
            .then_some(start..start + trimmed.len())
    }

    /// Whether `word`, which read as `token`, is in the list.
    #[inline]
    fn has(&self, token: Token, word: &str) -> bool {
        let mask = self.table.len() - 1;
        let mut slot = token.hash as usize & mask;
        while let Some((hash, listed)) = &self.table[slot] {
            if *hash == token.hash && listed.len() == token.len && self.reads_as(word, listed) {
                return true;
            }
            slot = (slot + 1) & mask;
        }
        false
    }

    fn reads_as(&self, word: &str, listed: &str) -> bool {
        let mut rest = listed.bytes();
        let mut is_same = true;
        for letter in word.chars() {
            self.read(letter, true, |byte| is_same &= rest.next() == Some(byte));
        }
        is_same && rest.next().is_none()
    }
}

impl Token {
    const EMPTY: Self = Self {
        len: 0,
        hash: 0x811c_9dc5,
    };

    #[inline]
    fn push(&mut self, byte: u8) {
        self.len += 1;
        self.hash = (self.hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
}

/// Characters without a width, which split a word for the machine and not for the reader.
fn is_invisible(letter: char) -> bool {
    matches!(
        letter,
        '\u{ad}' | '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}'
    )
}

fn fold_table(leetspeak: bool) -> [u8; 128] {
    let mut table = [0; 128];
    for byte in 0..128_u8 {
        let folded = match byte {
            b'4' | b'@' if leetspeak => b'a',
            b'3' if leetspeak => b'e',
            b'1' | b'!' if leetspeak => b'i',
            b'0' if leetspeak => b'o',
            b'5' | b'$' if leetspeak => b's',
            b'7' if leetspeak => b't',
            b'0'..=b'9' | b'a'..=b'z' => byte,
            b'A'..=b'Z' => byte.to_ascii_lowercase(),
            _ => 0,
        };
        table[usize::from(byte)] = folded;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(leetspeak: bool, text: &str, expected: &[&str]) {
        let list = ["darn", "Größe", "b4d", "leet"].map(str::to_owned);
        let words = Words::parse(&list, leetspeak).unwrap();
        let mut found = Vec::new();
        words.find(text, |place| {
            found.push(&text[place]);
            true
        });
        assert_eq!(found, expected, "in {text:?}");
    }

    #[test]
    fn words_match_whole_and_in_any_case() {
        check(
            false,
            "Darn, DARN and darned; undarn _darn_",
            &["Darn", "DARN", "darn"],
        );
        check(false, "GRÖSSE größe GRÖßE", &["größe", "GRÖßE"]);
        check(false, "“darn” darn… darn", &["darn", "darn", "darn"]);
        check(false, "b4d bad", &["b4d"]);
        check(false, "", &[]);
    }

    #[test]
    fn invisible_characters_do_not_hide_a_word() {
        check(false, "da\u{200b}rn", &["da\u{200b}rn"]);
        check(false, "\u{ad}darn", &["darn"]);
    }

    #[test]
    fn leetspeak_is_read_where_it_is_asked_for() {
        check(
            true,
            "d4rn d@rn! l33t bad",
            &["d4rn", "d@rn", "l33t", "bad"],
        );
        check(true, "darn! !darn", &["darn", "darn"]);
        check(false, "d4rn d@rn l33t", &[]);
    }

    #[test]
    fn long_runs_are_not_words() {
        check(false, &"darn".repeat(1000), &[]);
    }

    #[test]
    fn phrases_are_refused_as_settings() {
        assert!(Words::parse(&["two words".to_owned()], false).is_err());
        assert!(Words::parse(&[String::new()], false).is_err());
        assert!(Words::parse(&["x".repeat(65)], false).is_err());
    }

    #[test]
    fn large_lists_find_all_their_words() {
        let list: Vec<String> = (0..5000).map(|n| format!("word{n}")).collect();
        let words = Words::parse(&list, false).unwrap();
        let text = list.join(" ");
        let mut count = 0;
        words.find(&text, |_| {
            count += 1;
            true
        });
        assert_eq!(count, list.len());
    }
}
