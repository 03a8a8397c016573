//! Drawing: figures of panels with axes, drawn by plotters to SVG and PNG.

mod axis;
mod canvas;
mod dashes;
mod figure;
mod font;
mod inline;
mod labels;
mod look;
mod panel;
mod ticks;

pub(crate) use axis::Axis;
pub(crate) use canvas::{Canvas, Color};
pub(crate) use figure::{Figure, Scale};
pub(crate) use inline::{Colors, inline_svg};
pub(crate) use look::{Look, looks};
pub(crate) use panel::{Layer, Panel};
