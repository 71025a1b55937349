//! Converts between SSZ and the beacon API's JSON: integers are decimal strings, bytes and
//! bitfields are 0x-hex of their SSZ, lists are arrays.
//!
//! This is needed because one client serves blocks only as JSON. Reading is lenient where the
//! meaning is clear: it accepts numbers without quotes, and it ignores unknown fields. It is strict
//! in everything else. The output is always canonical.

use super::{Catalogue, Container, OFFSET_LEN, SchemaKind, SszView, Type};
use crate::{DecodeError, ForkName, Preset};
use alloy_primitives::U256;
use serde_json::{Map, Value};

/// The path to the value, and what is wrong with it.
type Reason = (String, String);

/// Converts the beacon API's JSON of the container `name` into SSZ. The result is validated like
/// received SSZ.
pub fn json_to_ssz(fork: ForkName, preset: &Preset, name: &'static str, json: &Value) -> Result<Vec<u8>, DecodeError> {
    let catalogue = Catalogue::of(fork, preset);
    let ty = catalogue.get(name)?;
    let ssz = ty.ssz_from_json(json)?;
    ty.validate(&ssz)?;
    Ok(ssz)
}

/// Converts the SSZ of the container `name` into the beacon API's JSON.
pub fn ssz_to_json(fork: ForkName, preset: &Preset, name: &'static str, ssz: &[u8]) -> Result<Value, DecodeError> {
    Ok(Catalogue::of(fork, preset).get(name)?.validate(ssz)?.to_json())
}

impl Type {
    /// Encodes the value in `json` as SSZ. It does not check list limits and padding bits;
    /// [`Type::validate`] does.
    pub fn ssz_from_json(&self, json: &Value) -> Result<Vec<u8>, DecodeError> {
        let mut out = Vec::new();
        write(self, json, &mut out).map_err(|(path, reason)| DecodeError::new(self.name(), path, 0, reason))?;
        Ok(out)
    }
}

impl SszView<'_, '_> {
    /// Returns the value as the beacon API's JSON.
    pub fn to_json(&self) -> Value {
        match self.ty().kind() {
            SchemaKind::Uint { bytes: 32 } => Value::String(U256::from_le_bytes(self.as_array::<32>()).to_string()),
            SchemaKind::Uint { .. } => {
                let mut wide = [0u8; 8];
                wide[..self.bytes().len()].copy_from_slice(self.bytes());
                Value::String(u64::from_le_bytes(wide).to_string())
            }
            SchemaKind::Boolean => Value::Bool(self.bytes() == [1]),
            SchemaKind::ByteVector { .. }
            | SchemaKind::ByteList { .. }
            | SchemaKind::Bitvector { .. }
            | SchemaKind::Bitlist { .. } => Value::String(format!("0x{}", hex::encode(self.bytes()))),
            SchemaKind::Vector { .. } | SchemaKind::List { .. } => self.elements().map(|element| element.to_json()).collect(),
            SchemaKind::Container(container) => {
                let fields = container.fields.iter().enumerate();
                Value::Object(
                    fields
                        .map(|(i, field)| (field.name.to_owned(), self.nth_field(container, i).to_json()))
                        .collect::<Map<_, _>>(),
                )
            }
        }
    }
}

fn write(ty: &Type, json: &Value, out: &mut Vec<u8>) -> Result<(), Reason> {
    match &ty.kind {
        SchemaKind::Uint { bytes } => write_uint(*bytes, json, out),
        SchemaKind::Boolean => {
            let value = match json {
                Value::Bool(value) => *value,
                Value::String(text) if text == "true" => true,
                Value::String(text) if text == "false" => false,
                other => return Err(mismatch("a boolean", other)),
            };
            out.push(u8::from(value));
            Ok(())
        }
        SchemaKind::ByteVector { length } => write_hex(Some(*length), json, out),
        SchemaKind::Bitvector { bits } => write_hex(Some(bits.div_ceil(8)), json, out),
        SchemaKind::ByteList { .. } | SchemaKind::Bitlist { .. } => write_hex(None, json, out),
        SchemaKind::Vector { element, length } => {
            let items = array(json)?;
            if items.len() != *length {
                return Err((String::new(), format!("{} elements where the vector has {length}", items.len())));
            }
            write_elements(element, items, out)
        }
        SchemaKind::List { element, .. } => write_elements(element, array(json)?, out),
        SchemaKind::Container(container) => write_container(container, json, out),
    }
}

fn write_uint(bytes: usize, json: &Value, out: &mut Vec<u8>) -> Result<(), Reason> {
    let text = match json {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        other => return Err(mismatch("a decimal number", other)),
    };
    let value: U256 = match text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        true => U256::from_str_radix(&text, 10).map_err(|_| (String::new(), format!("{text} is over 256 bits")))?,
        false => return Err((String::new(), format!("{text:?} is not a decimal number"))),
    };
    let wide = value.to_le_bytes::<32>();
    if wide[bytes..].iter().any(|byte| *byte != 0) {
        return Err((String::new(), format!("{text} is over {} bits", bytes * 8)));
    }
    out.extend_from_slice(&wide[..bytes]);
    Ok(())
}

fn write_hex(length: Option<usize>, json: &Value, out: &mut Vec<u8>) -> Result<(), Reason> {
    let Value::String(text) = json else { return Err(mismatch("0x-hex", json)) };
    let digits = text.strip_prefix("0x").ok_or_else(|| (String::new(), "hex begins with 0x".to_owned()))?;
    if let Some(length) = length
        && digits.len() != length * 2
    {
        return Err((String::new(), format!("{} hex digits where {} are due", digits.len(), length * 2)));
    }
    let bytes = hex::decode(digits).map_err(|error| (String::new(), error.to_string()))?;
    out.extend_from_slice(&bytes);
    Ok(())
}

fn write_elements(element: &Type, items: &[Value], out: &mut Vec<u8>) -> Result<(), Reason> {
    let begin = out.len();
    if element.fixed_len.is_none() {
        out.resize(begin + items.len() * OFFSET_LEN, 0);
    }
    for (i, item) in items.iter().enumerate() {
        if element.fixed_len.is_none() {
            put_offset(out, begin + i * OFFSET_LEN, begin)?;
        }
        write(element, item, out).map_err(|(path, reason)| (join(&format!("[{i}]"), &path), reason))?;
    }
    Ok(())
}

fn write_container(container: &Container, json: &Value, out: &mut Vec<u8>) -> Result<(), Reason> {
    let Value::Object(object) = json else { return Err(mismatch("an object", json)) };
    let begin = out.len();
    out.resize(begin + container.head_len, 0);
    for field in &container.fields {
        let named = |(path, reason): Reason| (join(field.name, &path), reason);
        let value = object.get(field.name).ok_or_else(|| named((String::new(), "the field is missing".to_owned())))?;
        match field.ty.fixed_len {
            Some(len) => {
                let mut part = Vec::with_capacity(len);
                write(&field.ty, value, &mut part).map_err(named)?;
                let start = begin + field.start;
                out.get_mut(start..start + len)
                    .filter(|_| part.len() == len)
                    .ok_or_else(|| named((String::new(), format!("{} bytes where {len} are due", part.len()))))?
                    .copy_from_slice(&part);
            }
            None => {
                put_offset(out, begin + field.start, begin).map_err(named)?;
                write(&field.ty, value, out).map_err(named)?;
            }
        }
    }
    Ok(())
}

/// Writes an offset at `place`: the distance from `begin` to the end of `out`.
fn put_offset(out: &mut [u8], place: usize, begin: usize) -> Result<(), Reason> {
    let offset = u32::try_from(out.len() - begin).map_err(|_| (String::new(), "over 4 GiB".to_owned()))?;
    out[place..place + OFFSET_LEN].copy_from_slice(&offset.to_le_bytes());
    Ok(())
}

fn array(json: &Value) -> Result<&[Value], Reason> {
    json.as_array().map(Vec::as_slice).ok_or_else(|| mismatch("an array", json))
}

fn mismatch(wanted: &str, found: &Value) -> Reason {
    let kind = match found {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    (String::new(), format!("{kind} where {wanted} is due"))
}

fn join(outer: &str, inner: &str) -> String {
    match inner {
        "" => outer.to_owned(),
        _ if inner.starts_with('[') => format!("{outer}{inner}"),
        _ => format!("{outer}.{inner}"),
    }
}
