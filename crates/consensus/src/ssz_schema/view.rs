//! Validated bytes together with their type. Fields and elements are slices; nothing is copied.

use super::validate::read_offset;
use super::{Container, OFFSET_LEN, SchemaKind, Type};
use crate::{DecodeError, Root};

/// Bytes that were validated as a value of the type `ty`.
#[derive(Clone, Copy, Debug)]
pub struct SszView<'t, 'a> {
    ty: &'t Type,
    bytes: &'a [u8],
}

impl<'t, 'a> SszView<'t, 'a> {
    /// Makes a view without a check. The bytes must be bytes that [`Type::validate`] accepted, or a
    /// part of them.
    pub(crate) fn checked(ty: &'t Type, bytes: &'a [u8]) -> Self {
        Self { ty, bytes }
    }

    pub fn ty(&self) -> &'t Type {
        self.ty
    }

    /// The SSZ bytes of the value.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns a field of a container. Returns `None` if this is not a container or if it has no
    /// such field in this fork.
    pub fn field(&self, name: &str) -> Option<SszView<'t, 'a>> {
        let SchemaKind::Container(container) = &self.ty.kind else { return None };
        let i = container.fields.iter().position(|field| field.name == name)?;
        Some(self.nth_field(container, i))
    }

    /// Returns a field inside nested containers, for example `message.body.graffiti`.
    pub fn path(&self, path: &str) -> Option<SszView<'t, 'a>> {
        path.split('.').try_fold(*self, |view, name| view.field(name))
    }

    /// Like [`SszView::path`], for a field that the specification has in every fork that the caller
    /// asks for. A missing field is an error.
    pub(crate) fn need(&self, path: &str) -> Result<SszView<'t, 'a>, DecodeError> {
        self.path(path).ok_or_else(|| DecodeError::new(self.ty.name(), path, 0, "this fork has no such field"))
    }

    /// Number of fields, elements, bytes or bits, depending on the type.
    pub fn len(&self) -> usize {
        match &self.ty.kind {
            SchemaKind::Uint { .. } | SchemaKind::Boolean => 1,
            SchemaKind::ByteVector { .. } | SchemaKind::ByteList { .. } => self.bytes.len(),
            SchemaKind::Bitvector { bits } => *bits,
            SchemaKind::Bitlist { .. } => bitlist_len(self.bytes),
            SchemaKind::Vector { length, .. } => *length,
            SchemaKind::List { element, .. } => match element.fixed_len {
                Some(len) => self.bytes.len() / len,
                None => read_offset(self.bytes, 0).unwrap_or(0) / OFFSET_LEN,
            },
            SchemaKind::Container(container) => container.fields.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns an element of a vector or list.
    pub fn element(&self, i: usize) -> Option<SszView<'t, 'a>> {
        if i >= self.len() {
            return None;
        }
        let (SchemaKind::Vector { element, .. } | SchemaKind::List { element, .. }) = &self.ty.kind else { return None };
        let bytes = match element.fixed_len {
            Some(len) => self.bytes.get(i * len..(i + 1) * len)?,
            None => {
                let start = read_offset(self.bytes, i * OFFSET_LEN)?;
                let end = if i + 1 < self.len() { read_offset(self.bytes, (i + 1) * OFFSET_LEN)? } else { self.bytes.len() };
                self.bytes.get(start..end)?
            }
        };
        Some(Self { ty: element, bytes })
    }

    /// Iterates over all elements of a vector or list. For other types the iterator is empty.
    pub fn elements(&self) -> Elements<'t, 'a> {
        Elements { of: *self, next: 0 }
    }

    /// Returns the value of a `uint64`, or 0 for other types.
    pub fn as_u64(&self) -> u64 {
        self.bytes.try_into().map_or(0, u64::from_le_bytes)
    }

    /// Returns exactly `N` bytes, or zeros for a type of another length.
    pub fn as_array<const N: usize>(&self) -> [u8; N] {
        self.bytes.try_into().unwrap_or([0; N])
    }

    /// Returns a value of 32 bytes.
    pub fn as_root(&self) -> Root {
        Root::from(self.as_array::<32>())
    }

    pub(super) fn nth_field(&self, container: &'t Container, i: usize) -> SszView<'t, 'a> {
        let field = &container.fields[i];
        let bytes = match field.ty.fixed_len {
            Some(len) => &self.bytes[field.start..field.start + len],
            None => {
                let start = read_offset(self.bytes, field.start).expect("validated: the fixed part is there");
                let next = container.fields[i + 1..].iter().find(|later| later.ty.fixed_len.is_none());
                let end = next.map_or(self.bytes.len(), |later| {
                    read_offset(self.bytes, later.start).expect("validated: the fixed part is there")
                });
                &self.bytes[start..end]
            }
        };
        SszView { ty: &field.ty, bytes }
    }
}

/// An iterator over the elements of a vector or list.
#[derive(Clone, Debug)]
pub struct Elements<'t, 'a> {
    of: SszView<'t, 'a>,
    next: usize,
}

impl<'t, 'a> Iterator for Elements<'t, 'a> {
    type Item = SszView<'t, 'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let element = self.of.element(self.next)?;
        self.next += 1;
        Some(element)
    }
}

/// Number of bits before the delimiter bit, or 0 if there is none.
pub(super) fn bitlist_len(bytes: &[u8]) -> usize {
    match bytes.last() {
        Some(last) if *last != 0 => bytes.len() * 8 - 1 - last.leading_zeros() as usize,
        _ => 0,
    }
}
