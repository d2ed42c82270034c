//! How JSON from other programs is read: objects, absent fields, whole numbers.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{
    DeserializeOwned, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor,
};
use serde_json::Value;

/// The most characters of an [explanation](explain).
const MAX_EXPLANATION: usize = 200;

/// UTF-8 may begin with it, as editors on Windows write it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads a body that must be a JSON object. (serde takes an array too, for the fields in the order
/// of their declaration.)
///
/// # Errors
/// Why the body is no object, or not of this kind, in words for its sender.
pub fn read_object<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    let text = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    if !text.trim_ascii_start().starts_with(b"{") {
        return Err(explain(body, &"the body is no JSON object"));
    }
    serde_json::from_slice(text).map_err(|error| explain(body, &error))
}

/// Why this body could not be read, in words. `problem` is the parser's, which knows no encodings.
fn explain(body: &[u8], problem: &dyn fmt::Display) -> String {
    let problem = match (body, std::str::from_utf8(body)) {
        ([], _) => "the body is empty".into(),
        (
            [0xfe, 0xff, ..]
            | [0xff, 0xfe, ..]
            | [0, 1..=255, 0, 1..=255, ..]
            | [1..=255, 0, 1..=255, 0, ..],
            _,
        ) => "the body is UTF-16, and must be UTF-8".into(),
        (_, Err(error)) => format!("the body is no UTF-8 at byte {}", error.valid_up_to() + 1),
        // `\ud800` without the second half of the pair.
        _ => problem.to_string().replace("end of hex escape", "end of a surrogate pair or escape"),
    };
    problem.chars().take(MAX_EXPLANATION).collect()
}

/// Reads a field that may be absent, but not `null`.
///
/// # Errors
/// When the field is not of this kind.
pub fn present<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// Reads an array of at most so many elements, that may be absent, but not `null`. Short elements
/// take many times the bytes in memory that they take in a body.
///
/// # Errors
/// When the field is not of this kind.
pub fn at_most<'de, const MOST: usize, T, D>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    struct AtMost<const MOST: usize, T>(PhantomData<T>);
    impl<'de, const MOST: usize, T: Deserialize<'de>> Visitor<'de> for AtMost<MOST, T> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "an array of at most {MOST} elements")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Vec<T>, A::Error> {
            let mut elements = Vec::new();
            while let Some(element) = array.next_element()? {
                elements.push(element);
                if elements.len() > MOST {
                    return Err(A::Error::invalid_length(elements.len(), &self));
                }
            }
            Ok(elements)
        }
    }
    deserializer.deserialize_seq(AtMost::<MOST, T>(PhantomData)).map(Some)
}

/// The longest word that is kept, in bytes.
const MAX_WORD_BYTES: usize = 64;

/// Reads a field that is to be a number or a word, and may be absent or `null`. Of anything else only the kind
/// is kept: nested arrays in memory take twenty times the bytes that a client sends.
///
/// # Errors
/// When the body is no JSON.
pub fn scalar<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    struct Scalar;
    impl<'de> Visitor<'de> for Scalar {
        type Value = Option<Value>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number or a word")
        }
        fn visit_unit<E>(self) -> Result<Option<Value>, E> {
            Ok(None)
        }
        fn visit_bool<E>(self, truth: bool) -> Result<Option<Value>, E> {
            Ok(Some(truth.into()))
        }
        fn visit_u64<E>(self, number: u64) -> Result<Option<Value>, E> {
            Ok(Some(number.into()))
        }
        fn visit_i64<E>(self, number: i64) -> Result<Option<Value>, E> {
            Ok(Some(number.into()))
        }
        fn visit_f64<E>(self, number: f64) -> Result<Option<Value>, E> {
            Ok(Some(number.into()))
        }
        fn visit_str<E>(self, word: &str) -> Result<Option<Value>, E> {
            Ok(Some(if word.len() > MAX_WORD_BYTES { "a long text" } else { word }.into()))
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Option<Value>, A::Error> {
            while array.next_element::<IgnoredAny>()?.is_some() {}
            Ok(Some("an array".into()))
        }
        fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Option<Value>, A::Error> {
            while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok(Some("an object".into()))
        }
    }
    deserializer.deserialize_any(Scalar)
}

/// The least floating-point number that is too large.
const TOO_LARGE: f64 = 18_446_744_073_709_551_616.0;

/// A whole number from 0 on. JSON has only one kind of number: 2.0 is 2 there, and a client whose
/// language knows no integers may write it so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whole(pub u64);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Whole, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Whole;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number from 0 on")
            }
            fn visit_u64<E>(self, number: u64) -> Result<Whole, E> {
                Ok(Whole(number))
            }
            fn visit_f64<E: Error>(self, number: f64) -> Result<Whole, E> {
                if number.fract() == 0.0 && (0.0..TOO_LARGE).contains(&number) {
                    // Nothing is rounded: it is one of the numbers that both types have.
                    Ok(Whole(number as u64))
                } else {
                    Err(E::invalid_value(Unexpected::Float(number), &self))
                }
            }
        }
        // Of a number in a flattened struct serde takes 2.0 for no whole one if asked for that.
        deserializer.deserialize_any(Number)
    }
}

/// Reads a field of type `u64` as a [`Whole`].
///
/// # Errors
/// When it is none.
pub fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Whole::deserialize(deserializer).map(|Whole(number)| number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_nested_field_only_the_kind_is_kept() {
        #[derive(Deserialize)]
        struct One {
            #[serde(default, deserialize_with = "scalar")]
            w: Option<Value>,
        }
        let read = |body: &str| serde_json::from_str::<One>(body).map(|one| one.w);
        assert_eq!(read("{}").unwrap(), None);
        assert_eq!(read(r#"{"w":null}"#).unwrap(), None);
        for same in ["true", "2", "-2", "2.5", r#""majority""#] {
            let value = read(&format!(r#"{{"w":{same}}}"#)).unwrap().unwrap();
            assert_eq!(value.to_string(), same);
        }
        assert_eq!(read(r#"{"w":[[],[2],{}]}"#).unwrap(), Some("an array".into()));
        assert_eq!(read(r#"{"w":{"a":[1]}}"#).unwrap(), Some("an object".into()));
        let long = read(&format!(r#"{{"w":"{}"}}"#, "x".repeat(65)));
        assert_eq!(long.unwrap(), Some("a long text".into()));
        assert!(read(r#"{"w":[}"#).is_err());
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Text {
        msg: String,
        #[serde(default, deserialize_with = "scalar")]
        w: Option<Value>,
        #[serde(default, deserialize_with = "at_most::<2, _, _>")]
        entries: Option<Vec<u64>>,
    }

    fn problem(body: &[u8]) -> String {
        read_object::<Text>(body).expect_err("the body is not as it should be")
    }

    #[test]
    fn a_byte_order_mark_and_null_are_passed_over() {
        let read = read_object(b"\xef\xbb\xbf {\"msg\":\"a\",\"w\":null}");
        assert_eq!(read, Ok(Text { msg: "a".into(), w: None, entries: None }));
    }

    #[test]
    fn what_is_wrong_with_a_body_is_said() {
        let script: [(&[u8], &str); 14] = [
            (b"", "the body is empty"),
            (b" ", "the body is no JSON object"),
            (b"[\"a\"]", "the body is no JSON object"),
            (b"msg=a", "the body is no JSON object"),
            (b"\xff\xfe{\0", "UTF-16"),
            (b"\0{\0\"", "UTF-16"),
            (b"{\0\"\0", "UTF-16"),
            (b"{\0\"msg\":\"a\"}", "key must be a string"),
            (b"{\"msg\":\"a\xff\"}", "no UTF-8 at byte 10"),
            (b"{\"msg\":\"\\ud800\"}", "surrogate"),
            (b"{\"msg\":\"a\",\"msg\":\"b\"}", "duplicate field `msg`"),
            (b"{\"msg\":5}", "integer `5`, expected a string"),
            (b"{\"msg\":null}", "null, expected a string"),
            (b"{\"msg\":\"a\",\"entries\":[1,2,3]}", "at most 2 elements"),
        ];
        for (body, expected) in script {
            let said = problem(body);
            assert!(said.contains(expected), "{said:?} without {expected:?}");
        }
        let long = format!("{{\"msg\":\"a\",\"entries\":{:?}}}", "x".repeat(1000));
        assert_eq!(problem(long.as_bytes()).chars().count(), MAX_EXPLANATION);
    }

    fn read(json: &str) -> Option<u64> {
        let text = serde_json::from_str(json).ok().map(|Whole(number)| number);
        let value = serde_json::from_str::<serde_json::Value>(json).unwrap();
        let value = Whole::deserialize(&value).ok().map(|Whole(number)| number);
        assert_eq!(text, value, "{json}");
        text
    }

    #[test]
    fn a_number_without_a_fraction_is_whole() {
        let whole = [("0", 0), ("-0", 0), ("-0.0", 0), ("2", 2), ("2.0", 2), ("1e3", 1000)];
        for (json, expected) in whole {
            assert_eq!(read(json), Some(expected), "{json}");
        }
        assert_eq!(read("18446744073709551615"), Some(u64::MAX));
        assert_eq!(read("1152921504606846976.0"), Some(1 << 60));
    }

    #[test]
    fn nothing_else_is() {
        for json in ["-1", "-1.0", "1.5", "1e-3", "1e20", "18446744073709551616", "1e300"] {
            assert_eq!(read(json), None, "{json}");
        }
        for json in ["true", "\"2\"", "null", "[2]", "{}"] {
            assert_eq!(read(json), None, "{json}");
        }
    }
}
