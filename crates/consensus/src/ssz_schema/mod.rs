//! SSZ types as values: every container of every fork and preset, without a type parameter for any of them.
//!
//! # The problem
//! One binary reads phase0 to Heze on three presets and on configurations that change a preset (Medalla did). With types
//! per preset that is 27 copies of about 60 containers, and a type parameter through everything above.
//!
//! # The idea
//! A [`Type`] is a small tree made at run time: `Catalogue::of(fork, preset)` builds all of them once and keeps them.
//! Bytes are checked against it once ([`Type::validate`]), which gives a [`View`]: type and bytes together. A view slices
//! fields and elements without copying, hashes itself, and turns into the beacon API's JSON. As only `validate` makes
//! views, nothing behind it can meet a bad offset.
//!
//! # A worked example
//! `IndexedAttestation` of two validators is 244 bytes: a 4-byte offset (228, the length of the fixed part), 128 bytes of
//! `data`, 96 of `signature`, then two 8-byte indices. `validate` checks: 244 >= 228; the first offset is 228 exactly; the
//! 16 bytes behind it are a multiple of 8 and 16 / 8 is not over the list's limit.
//!
//! # Limits
//! Checking is linear in the bytes given and allocates nothing; depth is that of the type. Lists of EIP-7916 (Gloas on)
//! have no limit of their own, the caller bounds the bytes. Hashing keeps one node per level (48 at most).
//!
//! Sources: consensus-specs `ssz/simple-serialize.md`; EIP-7495 and EIP-7916 for the progressive types, EIP-7688 for their use.

mod catalogue;
mod json;
mod merkle;
mod operations;
mod states;
mod validate;
mod view;

pub use catalogue::Catalogue;
pub use json::{json_to_ssz, ssz_to_json};
pub use view::{Elements, View};

use std::sync::Arc;

/// A shared type.
pub type TypeRef = Arc<Type>;

/// One SSZ type.
#[derive(Debug)]
pub struct Type {
    kind: Kind,
    /// Length of its SSZ where all values have the same.
    fixed_len: Option<usize>,
    /// Every byte string of the right length is a value: nothing inside needs a look.
    unrestricted: bool,
}

/// What kind of value a [`Type`] describes. A limit of `None` means progressive (EIP-7916).
#[derive(Debug)]
pub enum Kind {
    /// Little-endian, 1, 8 or 32 bytes.
    Uint {
        bytes: usize,
    },
    Boolean,
    /// `Vector[byte, N]`; hex in JSON.
    ByteVector {
        length: usize,
    },
    /// `List[byte, N]`; hex in JSON.
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

/// Named fields in order.
#[derive(Debug)]
pub struct Container {
    name: &'static str,
    fields: Vec<Field>,
    /// Length of the fixed part: fixed-size fields and offsets.
    head_len: usize,
    layout: Layout,
}

/// How a container's fields become the leaves of its tree.
#[derive(Debug)]
enum Layout {
    /// One leaf each, in a tree as small as they allow.
    Plain,
    /// EIP-7495: a progressive tree, with the positions in use mixed in.
    Progressive {
        /// Positions whose field a later fork removed, ascending: the fields behind them keep their own.
        gaps: Vec<usize>,
    },
}

/// One field of a container.
#[derive(Debug)]
pub struct Field {
    name: &'static str,
    ty: TypeRef,
    /// Where its bytes, or its offset, stand in the fixed part.
    start: usize,
}

impl Type {
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Length of its SSZ where all values have the same length.
    pub fn fixed_len(&self) -> Option<usize> {
        self.fixed_len
    }

    /// The container's name, or the kind's for other types.
    pub fn name(&self) -> &'static str {
        match &self.kind {
            Kind::Uint { .. } => "uint",
            Kind::Boolean => "boolean",
            Kind::ByteVector { .. } | Kind::ByteList { .. } => "bytes",
            Kind::Bitvector { .. } => "Bitvector",
            Kind::Bitlist { .. } => "Bitlist",
            Kind::Vector { .. } => "Vector",
            Kind::List { .. } => "List",
            Kind::Container(container) => container.name,
        }
    }

    /// Bytes this type takes in the fixed part of what contains it: its own, or an offset.
    fn head_len(&self) -> usize {
        self.fixed_len.unwrap_or(OFFSET_LEN)
    }

    /// Basic values are packed into chunks, others have a root each.
    fn is_basic(&self) -> bool {
        matches!(self.kind, Kind::Uint { .. } | Kind::Boolean)
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

/// `BYTES_PER_LENGTH_OFFSET`.
const OFFSET_LEN: usize = 4;

// Constructors, named as in the specification's own notation. Private: the catalogue is the only author of types.

fn make(kind: Kind, fixed_len: Option<usize>, unrestricted: bool) -> TypeRef {
    Arc::new(Type { kind, fixed_len, unrestricted })
}

fn uint(bytes: usize) -> TypeRef {
    make(Kind::Uint { bytes }, Some(bytes), true)
}

fn uint64() -> TypeRef {
    uint(8)
}

fn boolean() -> TypeRef {
    make(Kind::Boolean, Some(1), false)
}

fn bytes(length: usize) -> TypeRef {
    make(Kind::ByteVector { length }, Some(length), true)
}

/// A root, hash or other 32 bytes.
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
    make(Kind::ByteList { limit }, None, limit.is_none())
}

fn bitvector(bits: u64) -> TypeRef {
    let bits = bits as usize;
    make(Kind::Bitvector { bits }, Some(bits.div_ceil(8)), bits.is_multiple_of(8))
}

fn bitlist(limit: Option<u64>) -> TypeRef {
    make(Kind::Bitlist { limit }, None, false)
}

fn vector(element: TypeRef, length: u64) -> TypeRef {
    let length = length as usize;
    let fixed_len = element.fixed_len.map(|len| len * length);
    let unrestricted = fixed_len.is_some() && element.unrestricted;
    make(Kind::Vector { element, length }, fixed_len, unrestricted)
}

fn list(element: TypeRef, limit: Option<u64>) -> TypeRef {
    make(Kind::List { element, limit }, None, false)
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
    let kind = Kind::Container(Container { name, fields: placed, head_len: start, layout });
    make(kind, all_fixed.then_some(start), unrestricted)
}
