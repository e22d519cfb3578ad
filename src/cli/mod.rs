//! The command line.

pub mod demo;
pub mod render {
    //! What commands show.
    pub mod text;
}
