//! Finding numbers that lead to a person: telephones, payment cards, IBANs, US social security numbers.
//!
//! Check digits decide where there are any (Luhn for cards, modulo 97 for IBANs), so that an order number is not
//! taken for a card.

use std::ops::Range;

use crate::Number;

/// Longer candidates are neither of these numbers.
const MAX_CANDIDATE_BYTES: usize = 48;

/// Digits of a card's number.
const CARD_DIGITS: Range<usize> = 13..20;

/// Cards print their number in groups, of which the first has four digits.
const MIN_CARD_GROUP: usize = 4;

/// Digits of a telephone number in the international plan are at most 15.
const MAX_PHONE_DIGITS: usize = 15;

/// With a `+` in front, fewer digits make a telephone number.
const MIN_INTERNATIONAL_DIGITS: usize = 7;

/// Without it, shorter ones are more often something else: a date, a price.
const MIN_NATIONAL_DIGITS: usize = 9;

/// Length of an IBAN by country.
const IBAN_LENGTHS: &[(&[u8; 2], usize)] = &[
    (b"AD", 24),
    (b"AE", 23),
    (b"AL", 28),
    (b"AT", 20),
    (b"AZ", 28),
    (b"BA", 20),
    (b"BE", 16),
    (b"BG", 22),
    (b"BH", 22),
    (b"BR", 29),
    (b"BY", 28),
    (b"CH", 21),
    (b"CR", 22),
    (b"CY", 28),
    (b"CZ", 24),
    (b"DE", 22),
    (b"DK", 18),
    (b"DO", 28),
    (b"EE", 20),
    (b"EG", 29),
    (b"ES", 24),
    (b"FI", 18),
    (b"FO", 18),
    (b"FR", 27),
    (b"GB", 22),
    (b"GE", 22),
    (b"GI", 23),
    (b"GL", 18),
    (b"GR", 27),
    (b"GT", 28),
    (b"HR", 21),
    (b"HU", 28),
    (b"IE", 22),
    (b"IL", 23),
    (b"IQ", 23),
    (b"IS", 26),
    (b"IT", 27),
    (b"JO", 30),
    (b"KW", 30),
    (b"KZ", 20),
    (b"LB", 28),
    (b"LC", 32),
    (b"LI", 21),
    (b"LT", 20),
    (b"LU", 20),
    (b"LV", 21),
    (b"MC", 27),
    (b"MD", 24),
    (b"ME", 22),
    (b"MK", 19),
    (b"MR", 27),
    (b"MT", 31),
    (b"MU", 30),
    (b"NL", 18),
    (b"NO", 15),
    (b"PK", 24),
    (b"PL", 28),
    (b"PS", 29),
    (b"PT", 25),
    (b"QA", 29),
    (b"RO", 24),
    (b"RS", 22),
    (b"SA", 24),
    (b"SC", 31),
    (b"SE", 24),
    (b"SI", 19),
    (b"SK", 24),
    (b"SM", 27),
    (b"TN", 24),
    (b"TR", 26),
    (b"UA", 29),
    (b"VA", 22),
    (b"VG", 24),
    (b"XK", 20),
];

/// Calls `found` with each number and its place, in the text's order.
pub(crate) fn find(text: &str, mut found: impl FnMut(Number, Range<usize>)) {
    let bytes = text.as_bytes();
    let mut at = 0;
    // Up to here, digits belong to a run that is no telephone number, and neither is a part of it.
    let mut looked_at = 0;
    while at < bytes.len() {
        let is_inside = at > 0 && is_word(bytes[at - 1]);
        let number = if is_inside {
            None
        } else if bytes[at].is_ascii_alphabetic() {
            iban_at(bytes, at).map(|end| (Number::Identity, end))
        } else if bytes[at].is_ascii_digit() || bytes[at] == b'+' || bytes[at] == b'(' {
            let run = Run::read(bytes, at);
            let number = run.number(bytes, at >= looked_at);
            looked_at = looked_at.max(run.end);
            number
        } else {
            None
        };
        match number {
            Some((category, end)) => {
                found(category, at..end);
                at = end;
            }
            None => at += 1,
        }
    }
}

/// Digits and what may stand between them.
struct Run {
    start: usize,
    is_international: bool,
    digits: Vec<u8>,
    /// Number of digits and place behind the last one, for each group of digits.
    groups: Vec<(usize, usize)>,
    /// How many groups from the start on have a single blank or dash between them, as on a card.
    num_card_groups: usize,
    /// Just behind the last digit.
    end: usize,
}

impl Run {
    fn read(bytes: &[u8], start: usize) -> Self {
        let is_international = bytes[start] == b'+';
        let mut run = Self {
            start,
            is_international,
            digits: Vec::with_capacity(24),
            groups: Vec::new(),
            num_card_groups: 0,
            end: start,
        };
        let mut separators: &[u8] = &[];
        let mut at = start + usize::from(is_international);
        let limit = bytes.len().min(start + MAX_CANDIDATE_BYTES);
        while at < limit {
            let group = bytes[at..limit]
                .iter()
                .take_while(|byte| byte.is_ascii_digit())
                .count();
            if group > 0 {
                let digits = bytes[at..at + group].iter().map(|byte| byte - b'0');
                run.digits.extend(digits);
                let is_of_card = run.groups.is_empty() || matches!(separators, b" " | b"-");
                if is_of_card && run.num_card_groups == run.groups.len() {
                    run.num_card_groups += 1;
                }
                at += group;
                run.end = at;
                run.groups.push((run.digits.len(), at));
            }
            let after = bytes[at..limit]
                .iter()
                .take_while(|byte| b" -./()".contains(byte))
                .count();
            separators = &bytes[at..at + after];
            if !(1..=2).contains(&after) {
                break;
            }
            at += after;
        }
        run
    }

    /// What the run is, and where that ends.
    fn number(&self, bytes: &[u8], may_be_phone: bool) -> Option<(Number, usize)> {
        let is_whole = |end: usize| !bytes.get(end).is_some_and(|next| is_word(*next));
        let text = &bytes[self.start..self.end];
        if !self.is_international {
            if let Some(end) = self.card_end()
                && is_whole(end)
            {
                return Some((Number::Identity, end));
            }
            if is_whole(self.end) && is_social_security(text) {
                return Some((Number::Identity, self.end));
            }
        }
        let fewest = if self.is_international {
            MIN_INTERNATIONAL_DIGITS
        } else {
            MIN_NATIONAL_DIGITS
        };
        let is_phone = may_be_phone
            && is_whole(self.end)
            && (fewest..=MAX_PHONE_DIGITS).contains(&self.digits.len())
            && !is_date(text)
            && !is_ip_address(text);
        is_phone.then_some((Number::Phone, self.end))
    }

    /// Where the longest card number that starts with the run ends. What follows it may be digits too.
    fn card_end(&self) -> Option<usize> {
        let (first, _) = *self.groups.first()?;
        if first < MIN_CARD_GROUP {
            return None;
        }
        let groups = self.groups[..self.num_card_groups].iter().rev();
        let mut cards = groups.filter(|(num_digits, _)| is_card(&self.digits[..*num_digits]));
        cards.next().map(|(_, end)| *end)
    }
}

/// Every second digit from the right doubled, digit sums summed: a multiple of ten.
fn is_card(digits: &[u8]) -> bool {
    if !CARD_DIGITS.contains(&digits.len()) || digits.iter().all(|digit| *digit == 0) {
        return false;
    }
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(nth, digit)| {
            let digit = u32::from(*digit) << (nth % 2);
            digit / 10 + digit % 10
        })
        .sum();
    sum.is_multiple_of(10)
}

/// `ddd-dd-dddd`, without the areas, groups and serials that are never given out.
fn is_social_security(text: &[u8]) -> bool {
    let &[a, b, c, first, d, e, second, f, g, h, i] = text else {
        return false;
    };
    let is_number = [a, b, c, d, e, f, g, h, i].iter().all(u8::is_ascii_digit);
    let has_separators = first == second && matches!(first, b'-' | b' ');
    let area = [a, b, c];
    let is_area = area != *b"000" && area != *b"666" && a != b'9';
    is_number && has_separators && is_area && [d, e] != *b"00" && [f, g, h, i] != *b"0000"
}

/// `2026-11-21` and what may follow it.
fn is_date(text: &[u8]) -> bool {
    let Some(&[a, b, c, d, first, e, f, second, g, h]) = text.first_chunk::<10>() else {
        return false;
    };
    [a, b, c, d, e, f, g, h].iter().all(u8::is_ascii_digit)
        && first == second
        && matches!(first, b'-' | b'/' | b'.')
}

fn is_ip_address(text: &[u8]) -> bool {
    let mut groups = text.split(|byte| *byte == b'.');
    let is_group =
        |group: &[u8]| (1..=3).contains(&group.len()) && group.iter().all(u8::is_ascii_digit);
    groups.clone().count() == 4 && groups.all(is_group)
}

/// Where the IBAN at `at` ends, if there is one: in groups or in one piece, in either case.
fn iban_at(bytes: &[u8], at: usize) -> Option<usize> {
    let &[a, b, c, d] = bytes.get(at..at + 4)?.first_chunk::<4>()?;
    let country = [a.to_ascii_uppercase(), b.to_ascii_uppercase()];
    if !c.is_ascii_digit() || !d.is_ascii_digit() {
        return None;
    }
    let (_, len) = IBAN_LENGTHS.iter().find(|(of, _)| **of == country)?;

    let mut iban = [0; 34];
    let mut read = 0;
    let mut end = at;
    for (place, byte) in bytes.iter().enumerate().skip(at).take(MAX_CANDIDATE_BYTES) {
        if byte.is_ascii_alphanumeric() {
            iban[read] = byte.to_ascii_uppercase();
            read += 1;
            end = place + 1;
            if read == *len {
                break;
            }
        } else if *byte != b' ' || bytes[place - 1] == b' ' {
            break;
        }
    }
    let is_whole = read == *len && !bytes.get(end).is_some_and(|next| is_word(*next));
    (is_whole && is_iban(&iban[..read])).then_some(end)
}

/// The first four characters moved to the end, letters read as 10 to 35: 1 modulo 97.
fn is_iban(iban: &[u8]) -> bool {
    let (head, body) = iban.split_at(4);
    let rest = body
        .iter()
        .chain(head)
        .fold(0_u32, |rest, byte| match byte {
            b'0'..=b'9' => (rest * 10 + u32::from(byte - b'0')) % 97,
            _ => (rest * 100 + u32::from(byte - b'A') + 10) % 97,
        });
    rest == 1
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[(Number, &str)]) {
        let mut all = Vec::new();
        find(text, |category, place| all.push((category, &text[place])));
        assert_eq!(all, expected, "in {text:?}");
    }

    #[test]
    fn cards_are_told_by_their_check_digit() {
        use Number::Identity;
        check("4111 1111 1111 1111", &[(Identity, "4111 1111 1111 1111")]);
        check(
            "card 4111-1111-1111-1111.",
            &[(Identity, "4111-1111-1111-1111")],
        );
        check("378282246310005", &[(Identity, "378282246310005")]);
        check("5500005555555559!", &[(Identity, "5500005555555559")]);
        check("4111 1111 1111 1112", &[]);
        check("order4111111111111111", &[]);
        // Digits before and behind hide nothing.
        check(
            "77 4111 1111 1111 1111 12/29",
            &[(Identity, "4111 1111 1111 1111")],
        );
    }

    #[test]
    fn ibans_are_told_by_country_length_and_check_digits() {
        use Number::Identity;
        check(
            "DE89 3704 0044 0532 0130 00 thanks",
            &[(Identity, "DE89 3704 0044 0532 0130 00")],
        );
        check(
            "gb82west12345698765432",
            &[(Identity, "gb82west12345698765432")],
        );
        check("(NO9386011117947)", &[(Identity, "NO9386011117947")]);
        check(
            "MT84MALT011000012345MTLCAST001S",
            &[(Identity, "MT84MALT011000012345MTLCAST001S")],
        );
        check("GB82WEST12345698765433", &[]);
        check("ZZ89370400440532013000", &[]);
    }

    #[test]
    fn social_security_numbers_are_told_by_their_form() {
        use Number::Identity;
        check("ssn 123-45-6789", &[(Identity, "123-45-6789")]);
        check("123 45 6789", &[(Identity, "123 45 6789")]);
        // Never given out, but a telephone number for all that can be known.
        check("000-45-6789", &[(Number::Phone, "000-45-6789")]);
    }

    #[test]
    fn telephone_numbers_are_found_in_the_usual_forms() {
        use Number::Phone;
        check("+49 30 901820", &[(Phone, "+49 30 901820")]);
        check("call (212) 555-0123 now", &[(Phone, "(212) 555-0123")]);
        check("212.555.0123", &[(Phone, "212.555.0123")]);
        check("030/901820123,", &[(Phone, "030/901820123")]);
        check("+4930901820", &[(Phone, "+4930901820")]);
    }

    #[test]
    fn dates_prices_addresses_and_counts_are_left_alone() {
        for text in [
            "2026-11-21 12:30",
            "2026-11-21",
            "192.168.100.200",
            "1,000,000",
            "12345678",
            "v1.2.3",
            "3.14159",
            "+1",
            "a1b2c3d4e5f6",
            "12345678901234567890123",
        ] {
            check(text, &[]);
        }
    }

    #[test]
    fn long_texts_are_searched_in_linear_time() {
        find(&"1 ".repeat(100_000), |_, _| ());
        find(&"+".repeat(100_000), |_, _| ());
        find(&"DE89 ".repeat(50_000), |_, _| ());
    }
}
