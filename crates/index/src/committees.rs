//! The committees of all stored epochs and branches. They say which validator stands behind which
//! bit of a row.

mod active;
mod geometry;
mod seating;
mod seats;
mod table;

pub(crate) use geometry::Geometry;
pub(crate) use seating::Seating;
pub(crate) use seats::SeatFinder;
pub(crate) use table::ShufflingTable;
