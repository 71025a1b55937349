//! Checks bytes strictly against a type. After the check, every slice that a [`SszView`] takes is
//! in bounds and is a value of its type.

use super::{Container, OFFSET_LEN, SchemaKind, SszView, Type};
use crate::DecodeError;

/// A broken rule. The path to it is collected from the innermost step to the outermost.
struct SchemaProblem {
    path: Vec<ValidationStep>,
    offset: usize,
    reason: String,
}

enum ValidationStep {
    Field(&'static str),
    Element(usize),
}

impl Type {
    /// Checks that `bytes` are exactly one value of this type, without missing or extra bytes.
    ///
    /// The check covers: the order and bounds of offsets, the limits of lists, the delimiter bit of
    /// bitlists, padding bits that must be zero, and booleans that must be 0 or 1. Its time is
    /// linear in the number of bytes. It allocates memory only for an error.
    pub fn validate<'t, 'a>(&'t self, bytes: &'a [u8]) -> Result<SszView<'t, 'a>, DecodeError> {
        match check(self, bytes, 0) {
            Ok(()) => Ok(SszView::checked(self, bytes)),
            Err(problem) => Err(problem.into_error(self.name())),
        }
    }
}

impl SchemaProblem {
    fn new(offset: usize, reason: String) -> Self {
        Self { path: Vec::new(), offset, reason }
    }

    fn within(mut self, step: ValidationStep) -> Self {
        self.path.push(step);
        self
    }

    fn into_error(self, container: &'static str) -> DecodeError {
        let mut field = String::new();
        for step in self.path.iter().rev() {
            match step {
                ValidationStep::Field(name) => {
                    if !field.is_empty() {
                        field.push('.');
                    }
                    field.push_str(name);
                }
                ValidationStep::Element(i) => field.push_str(&format!("[{i}]")),
            }
        }
        DecodeError::new(container, field, self.offset, self.reason)
    }
}

/// `at` is the position of `bytes` in the whole message. It is used in error messages only.
fn check(ty: &Type, bytes: &[u8], at: usize) -> Result<(), SchemaProblem> {
    if let Some(len) = ty.fixed_len
        && bytes.len() != len
    {
        return Err(SchemaProblem::new(at, format!("{} bytes where {} has {len}", bytes.len(), ty.name())));
    }
    if ty.unrestricted {
        return Ok(());
    }
    match &ty.kind {
        SchemaKind::Uint { .. } | SchemaKind::ByteVector { .. } => Ok(()),
        SchemaKind::Boolean => match bytes {
            [0 | 1] => Ok(()),
            _ => Err(SchemaProblem::new(at, format!("a boolean is 0 or 1, not {}", bytes[0]))),
        },
        SchemaKind::ByteList { limit } => within_limit(bytes.len(), *limit, "bytes", at),
        SchemaKind::Bitvector { bits } => match bytes.last() {
            Some(last) if bits % 8 != 0 && last >> (bits % 8) != 0 => {
                Err(SchemaProblem::new(at + bytes.len() - 1, format!("bits set past the {bits} of the bitvector")))
            }
            _ => Ok(()),
        },
        SchemaKind::Bitlist { limit } => match bytes.last() {
            None => Err(SchemaProblem::new(at, "a bitlist has at least its length bit, here are no bytes".to_owned())),
            Some(0) => Err(SchemaProblem::new(at + bytes.len() - 1, "the bitlist's last byte lacks the length bit".to_owned())),
            Some(_) => within_limit(super::view::bitlist_len(bytes), *limit, "bits", at),
        },
        SchemaKind::Vector { element, length } => match element.fixed_len {
            Some(len) => check_fixed_elements(element, len, bytes, at),
            None => check_variable_elements(element, Some(*length), None, bytes, at),
        },
        SchemaKind::List { element, limit } => match element.fixed_len {
            Some(len) => {
                if !bytes.len().is_multiple_of(len) {
                    return Err(SchemaProblem::new(
                        at,
                        format!("{} bytes are no whole number of {len}-byte elements", bytes.len()),
                    ));
                }
                within_limit(bytes.len() / len, *limit, "elements", at)?;
                check_fixed_elements(element, len, bytes, at)
            }
            None => check_variable_elements(element, None, *limit, bytes, at),
        },
        SchemaKind::Container(container) => check_container(container, bytes, at),
    }
}

fn within_limit(n: usize, limit: Option<u64>, what: &str, at: usize) -> Result<(), SchemaProblem> {
    match limit {
        Some(limit) if n as u64 > limit => Err(SchemaProblem::new(at, format!("{n} {what} where {limit} are allowed"))),
        _ => Ok(()),
    }
}

fn check_fixed_elements(element: &Type, len: usize, bytes: &[u8], at: usize) -> Result<(), SchemaProblem> {
    if element.unrestricted {
        return Ok(());
    }
    for (i, part) in bytes.chunks_exact(len).enumerate() {
        check(element, part, at + i * len).map_err(|problem| problem.within(ValidationStep::Element(i)))?;
    }
    Ok(())
}

/// Checks elements of variable size: first one offset for each element, then the elements.
fn check_variable_elements(
    element: &Type,
    length: Option<usize>,
    limit: Option<u64>,
    bytes: &[u8],
    at: usize,
) -> Result<(), SchemaProblem> {
    if bytes.is_empty() && length.is_none_or(|length| length == 0) {
        return Ok(());
    }
    let first = read_offset(bytes, 0).ok_or_else(|| SchemaProblem::new(at, "no room for the first offset".to_owned()))?;
    if first == 0 || first % OFFSET_LEN != 0 || first > bytes.len() {
        return Err(SchemaProblem::new(
            at,
            format!("first offset {first} is not a number of offsets within {} bytes", bytes.len()),
        ));
    }
    let n = first / OFFSET_LEN;
    if let Some(length) = length
        && n != length
    {
        return Err(SchemaProblem::new(at, format!("{n} elements where the vector has {length}")));
    }
    within_limit(n, limit, "elements", at)?;
    let mut start = first;
    for i in 0..n {
        let end = if i + 1 < n { read_offset(bytes, (i + 1) * OFFSET_LEN).unwrap_or(usize::MAX) } else { bytes.len() };
        if end < start || end > bytes.len() {
            let place = at + (i + 1) * OFFSET_LEN;
            return Err(SchemaProblem::new(place, format!("offset {end} is out of order: between {start} and {}", bytes.len())));
        }
        check(element, &bytes[start..end], at + start).map_err(|problem| problem.within(ValidationStep::Element(i)))?;
        start = end;
    }
    Ok(())
}

fn check_container(container: &Container, bytes: &[u8], at: usize) -> Result<(), SchemaProblem> {
    if bytes.len() < container.head_len {
        let reason = format!("{} bytes, its fixed part has {}", bytes.len(), container.head_len);
        return Err(SchemaProblem::new(at, reason));
    }
    // The end of a field of variable size is the offset of the next one. Each such field is
    // therefore checked when the next offset is read.
    let mut waiting: Option<(&super::Field, usize)> = None;
    for field in &container.fields {
        if let Some(len) = field.ty.fixed_len {
            check(&field.ty, &bytes[field.start..field.start + len], at + field.start)
                .map_err(|problem| problem.within(ValidationStep::Field(field.name)))?;
            continue;
        }
        let offset = read_offset(bytes, field.start).unwrap_or(usize::MAX);
        let earliest = waiting.as_ref().map_or(container.head_len, |(_, start)| *start);
        let exact = waiting.is_none();
        if offset < earliest || offset > bytes.len() || (exact && offset != container.head_len) {
            let wanted = if exact { format!("{earliest}") } else { format!("{earliest} to {}", bytes.len()) };
            let problem = SchemaProblem::new(at + field.start, format!("offset {offset} where {wanted} is possible"));
            return Err(problem.within(ValidationStep::Field(field.name)));
        }
        if let Some((before, start)) = waiting {
            check(&before.ty, &bytes[start..offset], at + start)
                .map_err(|problem| problem.within(ValidationStep::Field(before.name)))?;
        }
        waiting = Some((field, offset));
    }
    if let Some((last, start)) = waiting {
        check(&last.ty, &bytes[start..], at + start).map_err(|problem| problem.within(ValidationStep::Field(last.name)))?;
    }
    Ok(())
}

/// Reads the offset at `position`. Returns `None` if there are fewer than four bytes.
pub(super) fn read_offset(bytes: &[u8], position: usize) -> Option<usize> {
    let four = bytes.get(position..position + OFFSET_LEN)?;
    Some(u32::from_le_bytes(four.try_into().ok()?) as usize)
}
