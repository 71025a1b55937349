//! SSZ types as values: every container of every fork and preset, without a type parameter for any
//! of them.
//!
//! # The problem
//!
//! One binary reads all forks from phase0 to Heze on three presets, and also configurations that
//! change a preset (Medalla did). With one Rust type per fork and preset there would be 27 copies
//! of about 60 containers, and all code above would need a type parameter.
//!
//! # The idea
//!
//! A [`Type`] is a small tree that is made at run time. `Catalogue::of(fork, preset)` builds all
//! types of a fork and preset once and keeps them. Bytes are checked against a type once
//! ([`Type::validate`]). The result is a [`SszView`], which is the type and the bytes together. A
//! view slices fields and elements without copying, computes its own hash-tree-root, and converts
//! itself into the beacon API's JSON. Only `validate` makes views, so code that has a view cannot
//! meet a bad offset.
//!
//! # A worked example
//!
//! `IndexedAttestation` with two validators has 244 bytes: a 4-byte offset (228, the length of the
//! fixed part), 128 bytes of `data`, 96 bytes of `signature`, then two 8-byte indices. `validate`
//! checks three things: 244 >= 228; the first offset is exactly 228; the length of the last 16
//! bytes is a multiple of 8, and 16 / 8 is not over the list's limit.
//!
//! # Limits
//!
//! The time of a check is linear in the number of bytes. A check allocates nothing, and its depth
//! is the depth of the type. The lists of EIP-7916 (from Gloas on) have no limit of their own, so
//! the caller must bound the bytes. Hashing keeps one node per level (at most 48).
//!
//! Sources: consensus-specs `ssz/simple-serialize.md`; EIP-7495 and EIP-7916 for the progressive
//! types, EIP-7688 for their use.

mod catalogue;
mod json;
mod merkle;
mod operations;
mod states;
mod validate;
mod view;

pub use catalogue::Catalogue;
pub use json::{json_to_ssz, ssz_to_json};
pub use view::{Elements, SszView};

use std::sync::Arc;

/// A shared reference to a type.
pub type TypeRef = Arc<Type>;

/// One SSZ type.
#[derive(Debug)]
pub struct Type {
    kind: SchemaKind,
    /// Length of its SSZ in bytes, if it is the same for all values.
    fixed_len: Option<usize>,
    /// Every byte string of the right length is a value of this type, so the bytes need no further
    /// check.
    unrestricted: bool,
}

/// The kind of value that a [`Type`] describes. A limit of `None` means that the list is
/// progressive (EIP-7916).
#[derive(Debug)]
pub enum SchemaKind {
    /// Unsigned integer of 1, 8 or 32 bytes, little-endian.
    Uint {
        bytes: usize,
    },
    Boolean,
    /// `Vector[byte, N]`. In JSON it is a hexadecimal string.
    ByteVector {
        length: usize,
    },
    /// `List[byte, N]`. In JSON it is a hexadecimal string.
    ByteList {
        limit: Option<u64>,
    },
    Bitvector {
        bits: usize,
    },
    Bitlist {
        limit: Option<u64>,
    },
    Vector {
        element: TypeRef,
        length: usize,
    },
    List {
        element: TypeRef,
        limit: Option<u64>,
    },
    Container(Container),
}

/// A container: named fields in order.
#[derive(Debug)]
pub struct Container {
    name: &'static str,
    fields: Vec<Field>,
    /// Length in bytes of the fixed part, which holds the fields of fixed size and the offsets.
    head_len: usize,
    layout: Layout,
}

/// How the fields of a container become the leaves of its Merkle tree.
#[derive(Debug)]
enum Layout {
    /// Each field is one leaf. The tree is the smallest one with room for all fields.
    Plain,
    /// EIP-7495: a progressive tree. The bit field of the positions in use is mixed in.
    Progressive {
        /// Positions of fields that a later fork removed, ascending. The fields after them keep
        /// their positions.
        gaps: Vec<usize>,
    },
}

/// One field of a container.
#[derive(Debug)]
pub struct Field {
    name: &'static str,
    ty: TypeRef,
    /// Position of the field's bytes, or of its offset, in the fixed part.
    start: usize,
}

impl Type {
    pub fn kind(&self) -> &SchemaKind {
        &self.kind
    }

    /// Length of its SSZ in bytes, if it is the same for all values.
    pub fn fixed_len(&self) -> Option<usize> {
        self.fixed_len
    }

    /// Name of the container. For any other type, the name of its kind.
    pub fn name(&self) -> &'static str {
        match &self.kind {
            SchemaKind::Uint { .. } => "uint",
            SchemaKind::Boolean => "boolean",
            SchemaKind::ByteVector { .. } | SchemaKind::ByteList { .. } => "bytes",
            SchemaKind::Bitvector { .. } => "Bitvector",
            SchemaKind::Bitlist { .. } => "Bitlist",
            SchemaKind::Vector { .. } => "Vector",
            SchemaKind::List { .. } => "List",
            SchemaKind::Container(container) => container.name,
        }
    }

    /// Number of bytes of this type in the fixed part of its container: the value itself, or an
    /// offset.
    fn head_len(&self) -> usize {
        self.fixed_len.unwrap_or(OFFSET_LEN)
    }

    /// Returns whether the type is basic. Basic values are packed into chunks of 32 bytes; every
    /// other value has a root of its own.
    fn is_basic(&self) -> bool {
        matches!(self.kind, SchemaKind::Uint { .. } | SchemaKind::Boolean)
    }
}

impl Container {
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }
}

impl Field {
    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn ty(&self) -> &TypeRef {
        &self.ty
    }
}

/// `BYTES_PER_LENGTH_OFFSET` of the specification.
const OFFSET_LEN: usize = 4;

// Constructors with the names of the specification's notation. They are private, because only the
// catalogue makes types.

fn make(kind: SchemaKind, fixed_len: Option<usize>, unrestricted: bool) -> TypeRef {
    Arc::new(Type { kind, fixed_len, unrestricted })
}

fn uint(bytes: usize) -> TypeRef {
    make(SchemaKind::Uint { bytes }, Some(bytes), true)
}

fn uint64() -> TypeRef {
    uint(8)
}

fn boolean() -> TypeRef {
    make(SchemaKind::Boolean, Some(1), false)
}

fn bytes(length: usize) -> TypeRef {
    make(SchemaKind::ByteVector { length }, Some(length), true)
}

/// A root, a hash or any other value of 32 bytes.
fn bytes32() -> TypeRef {
    bytes(32)
}

fn pubkey() -> TypeRef {
    bytes(48)
}

fn signature() -> TypeRef {
    bytes(96)
}

fn byte_list(limit: Option<u64>) -> TypeRef {
    make(SchemaKind::ByteList { limit }, None, limit.is_none())
}

fn bitvector(bits: u64) -> TypeRef {
    let bits = bits as usize;
    make(SchemaKind::Bitvector { bits }, Some(bits.div_ceil(8)), bits.is_multiple_of(8))
}

fn bitlist(limit: Option<u64>) -> TypeRef {
    make(SchemaKind::Bitlist { limit }, None, false)
}

fn vector(element: TypeRef, length: u64) -> TypeRef {
    let length = length as usize;
    let fixed_len = element.fixed_len.map(|len| len * length);
    let unrestricted = fixed_len.is_some() && element.unrestricted;
    make(SchemaKind::Vector { element, length }, fixed_len, unrestricted)
}

fn list(element: TypeRef, limit: Option<u64>) -> TypeRef {
    make(SchemaKind::List { element, limit }, None, false)
}

fn container(name: &'static str, fields: Vec<(&'static str, TypeRef)>, layout: Layout) -> TypeRef {
    let mut start = 0;
    let mut placed = Vec::with_capacity(fields.len());
    for (name, ty) in fields {
        let len = ty.head_len();
        placed.push(Field { name, ty, start });
        start += len;
    }
    let all_fixed = placed.iter().all(|field| field.ty.fixed_len.is_some());
    let unrestricted = all_fixed && placed.iter().all(|field| field.ty.unrestricted);
    let kind = SchemaKind::Container(Container { name, fields: placed, head_len: start, layout });
    make(kind, all_fixed.then_some(start), unrestricted)
}
