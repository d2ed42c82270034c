//! How JSON from other programs is read: objects, absent fields, whole numbers.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{
    DeserializeOwned, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor,
};
use serde_json::Value;

/// Reads a body that must be a JSON object. (serde takes an array too, for the fields in the order
/// of their declaration.)
///
/// # Errors
/// When the body is no object, or not of this kind.
pub fn read_object<T: DeserializeOwned>(body: &[u8]) -> Result<T, serde_json::Error> {
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(serde_json::Error::custom("not an object"));
    }
    serde_json::from_slice(body)
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

/// Reads an array of at most so many elements, that is not `null` and may be absent. Short elements
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

/// Reads a field that is to be a number or a word, and may be absent. Of anything else only the kind
/// is kept: nested arrays in memory take twenty times the bytes that a client sends.
///
/// # Errors
/// When the body is no JSON.
pub fn scalar<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    struct Scalar;
    impl<'de> Visitor<'de> for Scalar {
        type Value = Value;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number or a word")
        }
        fn visit_unit<E>(self) -> Result<Value, E> {
            Ok(Value::Null)
        }
        fn visit_bool<E>(self, truth: bool) -> Result<Value, E> {
            Ok(truth.into())
        }
        fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
            Ok(number.into())
        }
        fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
            Ok(number.into())
        }
        fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
            Ok(number.into())
        }
        fn visit_str<E>(self, word: &str) -> Result<Value, E> {
            Ok(if word.len() > MAX_WORD_BYTES { "a long text" } else { word }.into())
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Value, A::Error> {
            while array.next_element::<IgnoredAny>()?.is_some() {}
            Ok("an array".into())
        }
        fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
            while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok("an object".into())
        }
    }
    deserializer.deserialize_any(Scalar).map(Some)
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
        for same in ["null", "true", "2", "-2", "2.5", r#""majority""#] {
            let value = read(&format!(r#"{{"w":{same}}}"#)).unwrap().unwrap();
            assert_eq!(value.to_string(), same);
        }
        assert_eq!(read(r#"{"w":[[],[2],{}]}"#).unwrap(), Some("an array".into()));
        assert_eq!(read(r#"{"w":{"a":[1]}}"#).unwrap(), Some("an object".into()));
        let long = read(&format!(r#"{{"w":"{}"}}"#, "x".repeat(65)));
        assert_eq!(long.unwrap(), Some("a long text".into()));
        assert!(read(r#"{"w":[}"#).is_err());
    }

    #[test]
    fn an_array_is_not_taken_for_an_object() {
        #[derive(Deserialize)]
        struct One {
            _a: u64,
        }
        assert!(read_object::<One>(b" {\"_a\":1}").is_ok());
        for body in ["[1]", "1", "", " "] {
            assert!(read_object::<One>(body.as_bytes()).is_err(), "{body}");
        }
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
