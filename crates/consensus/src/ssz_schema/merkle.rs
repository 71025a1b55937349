//! Computes the hash-tree-root of validated bytes.
//!
//! **Cache.** Neighbours in a registry are often alike: most validators have the effective balance,
//! exit epoch or activation epoch of the validator before them. Large values (states) are therefore
//! hashed with a small direct-mapped cache of the last pairs, which saves about half of the hashes.
//! An entry is used only if the whole pair is equal, so the cache cannot change a result. Without
//! SHA instructions one hash takes about 0.4 us.
//!
//! **Trees.** A tree is hashed while its leaves arrive, in the same way as a binary counter counts.
//! Only one waiting node per level is kept, so a list of 2.5 million validators needs no more
//! memory than a list of three. Missing leaves are replaced by the known roots of trees that hold
//! only zeros.
//!
//! **Progressive trees** (EIP-7916) are a chain of binary trees of 1, 4, 16, ... leaves that ends
//! with zero: `hash(tree_0, hash(tree_1, ...))`. A list can therefore grow without a limit while
//! its first leaves keep their positions.

use super::view::bitlist_len;
use super::{Container, Layout, SchemaKind, SszView, Type};
use crate::Root;
use ethereum_hashing::hash32_concat;
use std::sync::LazyLock;

type Node = [u8; 32];

/// Maximum depth of a tree. The deepest one is the registry with 2^40 elements, and there is some
/// room above it.
const MAX_DEPTH: usize = 48;

/// `ZERO_ROOTS[d]` is the root of a tree of depth `d` whose leaves are all zero.
static ZERO_ROOTS: LazyLock<[Node; MAX_DEPTH + 1]> = LazyLock::new(|| {
    let mut roots = [[0; 32]; MAX_DEPTH + 1];
    for depth in 0..MAX_DEPTH {
        roots[depth + 1] = hash32_concat(&roots[depth], &roots[depth]);
    }
    roots
});

impl SszView<'_, '_> {
    /// `hash_tree_root` of the specification.
    pub fn hash_tree_root(&self) -> Root {
        Root::from(root(self, &mut Hasher::for_size(self.bytes().len())))
    }
}

fn root(view: &SszView<'_, '_>, hasher: &mut Hasher) -> Node {
    let bytes = view.bytes();
    match view.ty().kind() {
        SchemaKind::Uint { .. } | SchemaKind::Boolean => chunk(bytes),
        SchemaKind::ByteVector { length } => packed(bytes, length.div_ceil(32) as u64, hasher),
        SchemaKind::ByteList { limit } => {
            let tree = limited_or_progressive(bytes, limit.map(|limit| limit.div_ceil(32)), hasher);
            mix_in(tree, bytes.len())
        }
        SchemaKind::Bitvector { bits } => packed(bytes, bits.div_ceil(256) as u64, hasher),
        SchemaKind::Bitlist { limit } => {
            let n = bitlist_len(bytes);
            let mut bits = bytes[..n.div_ceil(8)].to_vec();
            if !n.is_multiple_of(8)
                && let Some(last) = bits.last_mut()
            {
                *last &= !(1u8 << (n % 8));
            }
            mix_in(limited_or_progressive(&bits, limit.map(|limit| limit.div_ceil(256)), hasher), n)
        }
        SchemaKind::Vector { element, length } => {
            if element.is_basic() {
                packed(bytes, chunks_of(element, *length as u64), hasher)
            } else {
                let mut tree = MerkleTree::new();
                view.elements().for_each(|element| tree.push(root(&element, hasher), hasher));
                tree.finish(depth_of(*length as u64), hasher)
            }
        }
        SchemaKind::List { element, limit } => {
            let tree = match (element.is_basic(), limit) {
                (true, limit) => limited_or_progressive(bytes, limit.map(|limit| chunks_of(element, limit)), hasher),
                (false, Some(limit)) => {
                    let mut tree = MerkleTree::new();
                    view.elements().for_each(|element| tree.push(root(&element, hasher), hasher));
                    tree.finish(depth_of(*limit), hasher)
                }
                (false, None) => {
                    let mut tree = ProgressiveTree::new();
                    view.elements().for_each(|element| tree.push(root(&element, hasher), hasher));
                    tree.finish(hasher)
                }
            };
            mix_in(tree, view.len())
        }
        SchemaKind::Container(container) => match &container.layout {
            Layout::Plain => {
                let mut tree = MerkleTree::new();
                (0..container.fields.len()).for_each(|i| tree.push(root(&view.nth_field(container, i), hasher), hasher));
                tree.finish(depth_of(container.fields.len() as u64), hasher)
            }
            Layout::Progressive { gaps } => progressive_container(view, container, gaps, hasher),
        },
    }
}

/// EIP-7495: a gap is a zero leaf. The mixed-in positions distinguish it from a field whose root is
/// zero.
fn progressive_container(view: &SszView<'_, '_>, container: &Container, gaps: &[usize], hasher: &mut Hasher) -> Node {
    let width = container.fields.len() + gaps.len();
    let mut tree = ProgressiveTree::new();
    let mut fields = 0..container.fields.len();
    for position in 0..width {
        let field = if gaps.contains(&position) { None } else { fields.next() };
        tree.push(field.map_or([0; 32], |i| root(&view.nth_field(container, i), hasher)), hasher);
    }
    hash32_concat(&tree.finish(hasher), &active_fields(width, gaps))
}

/// Number of leaves that `n` packed basic values take.
fn chunks_of(element: &Type, n: u64) -> u64 {
    n.saturating_mul(element.fixed_len().unwrap_or(32) as u64).div_ceil(32)
}

/// Depth of the smallest tree with room for `leaves` leaves.
fn depth_of(leaves: u64) -> usize {
    (u64::BITS - leaves.max(1).saturating_sub(1).leading_zeros()) as usize
}

/// Pads at most 32 bytes with zeros to a leaf.
fn chunk(bytes: &[u8]) -> Node {
    let mut node = [0; 32];
    let n = bytes.len().min(32);
    node[..n].copy_from_slice(&bytes[..n]);
    node
}

fn packed(bytes: &[u8], leaves: u64, hasher: &mut Hasher) -> Node {
    if leaves == 1 {
        return chunk(bytes);
    }
    let mut tree = MerkleTree::new();
    bytes.chunks(32).for_each(|part| tree.push(chunk(part), hasher));
    tree.finish(depth_of(leaves), hasher)
}

fn limited_or_progressive(bytes: &[u8], leaves: Option<u64>, hasher: &mut Hasher) -> Node {
    match leaves {
        Some(leaves) => packed(bytes, leaves, hasher),
        None => {
            let mut tree = ProgressiveTree::new();
            bytes.chunks(32).for_each(|part| tree.push(chunk(part), hasher));
            tree.finish(hasher)
        }
    }
}

/// `mix_in_length` of the specification.
fn mix_in(tree: Node, length: usize) -> Node {
    hash32_concat(&tree, &chunk(&(length as u64).to_le_bytes()))
}

/// `active_fields` of EIP-7495: one bit for each position that has a field.
fn active_fields(width: usize, gaps: &[usize]) -> Node {
    let mut node = [0; 32];
    for i in (0..width.min(256)).filter(|i| !gaps.contains(i)) {
        node[i / 8] |= 1 << (i % 8);
    }
    node
}

/// Hashes pairs of nodes. For large values it caches the hashes of some pairs.
struct Hasher {
    /// Cache entries: left node, right node and their hash. Empty for small values.
    memory: Vec<(Node, Node, Node)>,
}

impl Hasher {
    /// Number of entries. They take about 100 kB, which fits into the second-level cache of a
    /// processor.
    const ENTRIES: usize = 1024;
    /// Minimum size in bytes of a value for which a cache is made. A smaller value is hashed in
    /// less time than making the cache takes.
    const WORTH_IT: usize = 1 << 18;

    fn for_size(bytes: usize) -> Self {
        let entries = if bytes >= Self::WORTH_IT { Self::ENTRIES } else { 0 };
        let zeros = ([0; 32], [0; 32], ZERO_ROOTS[1]);
        Self { memory: vec![zeros; entries] }
    }

    fn pair(&mut self, left: &Node, right: &Node) -> Node {
        if self.memory.is_empty() {
            return hash32_concat(left, right);
        }
        let word = |node: &Node| u64::from_le_bytes([node[0], node[1], node[2], node[3], node[4], node[5], node[6], node[7]]);
        let mixed = (word(left) ^ word(right).rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let entry = &mut self.memory[(mixed >> 54) as usize % Self::ENTRIES];
        if entry.0 != *left || entry.1 != *right {
            *entry = (*left, *right, hash32_concat(left, right));
        }
        entry.2
    }
}

/// A binary tree that receives its leaves from left to right.
struct MerkleTree {
    /// `waiting[level]` is a left node whose right sibling has not come yet, if bit `level` of
    /// `count` is set.
    waiting: [Node; MAX_DEPTH + 1],
    count: u64,
}

impl MerkleTree {
    fn new() -> Self {
        Self { waiting: [[0; 32]; MAX_DEPTH + 1], count: 0 }
    }

    fn push(&mut self, leaf: Node, hasher: &mut Hasher) {
        let mut node = leaf;
        let level = self.count.trailing_ones() as usize;
        for left in &self.waiting[..level] {
            node = hasher.pair(left, &node);
        }
        self.waiting[level] = node;
        self.count += 1;
    }

    /// Returns the root of the tree of this depth. Missing leaves count as zero. The depth must
    /// have room for all leaves that were pushed.
    fn finish(self, depth: usize, hasher: &mut Hasher) -> Node {
        if self.count == 0 {
            return ZERO_ROOTS[depth];
        }
        let mut right: Option<Node> = None;
        for (level, left) in self.waiting[..depth].iter().enumerate() {
            let has_left = self.count >> level & 1 == 1;
            right = match (has_left, right) {
                (true, Some(node)) => Some(hasher.pair(left, &node)),
                (true, None) => Some(hasher.pair(left, &ZERO_ROOTS[level])),
                (false, Some(node)) => Some(hasher.pair(&node, &ZERO_ROOTS[level])),
                (false, None) => None,
            };
        }
        right.unwrap_or(self.waiting[depth])
    }
}

/// A chain of trees of 1, 4, 16, ... leaves.
struct ProgressiveTree {
    finished: Vec<Node>,
    current: MerkleTree,
    depth: usize,
}

impl ProgressiveTree {
    fn new() -> Self {
        Self { finished: Vec::new(), current: MerkleTree::new(), depth: 0 }
    }

    fn push(&mut self, leaf: Node, hasher: &mut Hasher) {
        self.current.push(leaf, hasher);
        if self.current.count == 1 << self.depth {
            let full = std::mem::replace(&mut self.current, MerkleTree::new());
            self.finished.push(full.finish(self.depth, hasher));
            self.depth += 2;
        }
    }

    fn finish(mut self, hasher: &mut Hasher) -> Node {
        if self.current.count > 0 {
            self.finished.push(self.current.finish(self.depth, hasher));
        }
        self.finished.iter().rev().fold([0; 32], |rest, tree| hash32_concat(tree, &rest))
    }
}
