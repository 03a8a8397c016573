//! The font of all plots.
//!
//! It is part of the program, so that plots look the same everywhere. Liberation Sans has the widths
//! of Arial and Helvetica: an SVG names these as substitutes and keeps its layout with any of them.

use std::sync::LazyLock;

use ab_glyph::{Font, FontRef, PxScale, ScaleFont, point};
use plotters_backend::text_anchor::{HPos, Pos, VPos};
use plotters_backend::{BackendColor, BackendCoord, BackendTextStyle, FontFamily, FontTransform};

use super::canvas::{Align, Color};

/// What an SVG asks its viewer for.
const FAMILIES: &str = "Liberation Sans, Arial, Helvetica, sans-serif";

/// `None` would mean that the font file within the program is damaged; text is then left out.
static FONT: LazyLock<Option<FontRef<'static>>> =
    LazyLock::new(|| FontRef::try_from_slice(include_bytes!("../../assets/UnrollSans.ttf")).ok());

/// Baseline of a text below the top that plotters is told, in em: plotters-svg's `dy` for texts
/// anchored at their top.
pub(super) const BASELINE: f64 = 0.76;

/// plotters' text size of one em: plotters-svg divides by this.
const PLOTTERS_EM: f64 = 1.24;

/// Width of a text at `size` (the em), in the unit of `size`.
pub(crate) fn text_width(text: &str, size: f64) -> f64 {
    let Some(font) = FONT.as_ref() else { return 0.0 };
    let Some(units) = font.units_per_em() else { return 0.0 };
    let mut width = 0.0;
    let mut previous = None;
    for c in text.chars() {
        let glyph = font.glyph_id(c);
        if let Some(previous) = previous {
            width += font.kern_unscaled(previous, glyph);
        }
        width += font.h_advance_unscaled(glyph);
        previous = Some(glyph);
    }
    f64::from(width / units) * size
}

/// The text itself, or its start and end around `…` when it is wider than `room`.
pub(crate) fn shortened(text: &str, size: f64, room: f64) -> String {
    if text_width(text, size) <= room {
        return text.to_owned();
    }
    let chars: Vec<char> = text.chars().collect();
    let cut = |kept: usize| -> String {
        let start = &chars[..kept.div_ceil(2)];
        let end = &chars[chars.len() - kept / 2..];
        start.iter().chain(&['…']).chain(end).collect()
    };
    let fits = (0..chars.len()).rev().map(cut).find(|text| text_width(text, size) <= room);
    fits.unwrap_or_else(|| "…".to_owned())
}

/// Whether the font can show every character of a text.
#[cfg(test)]
pub(crate) fn covers(text: &str) -> bool {
    FONT.as_ref().is_some_and(|font| text.chars().all(|c| font.glyph_id(c).0 != 0))
}

/// A text style of plotters with this font.
///
/// plotters' own bitmap text (0.3.7) drops the bearing of every glyph and rounds its place to whole
/// pixels, and sizes differ from those in an SVG; this style draws the outlines where they belong.
pub(super) struct TextStyle {
    /// The em, pixels.
    pub(super) size: f64,
    pub(super) color: Color,
    pub(super) align: Align,
    /// Reading upwards.
    pub(super) upwards: bool,
}

/// A text without its font: cannot happen with an intact program.
#[derive(Debug, thiserror::Error)]
#[error("the font within the program is damaged")]
pub(super) struct FontError;

impl BackendTextStyle for TextStyle {
    type FontError = FontError;

    fn color(&self) -> BackendColor {
        self.color.opaque()
    }

    fn size(&self) -> f64 {
        self.size * PLOTTERS_EM
    }

    fn transform(&self) -> FontTransform {
        if self.upwards { FontTransform::Rotate270 } else { FontTransform::None }
    }

    fn anchor(&self) -> Pos {
        let horizontal = match self.align {
            Align::Left => HPos::Left,
            Align::Center => HPos::Center,
            Align::Right => HPos::Right,
        };
        Pos::new(horizontal, VPos::Top)
    }

    fn family(&self) -> FontFamily<'_> {
        FontFamily::Name(FAMILIES)
    }

    fn layout_box(&self, text: &str) -> Result<((i32, i32), (i32, i32)), FontError> {
        let width = text_width(text, self.size).round() as i32;
        Ok(((0, 0), (width, self.size.round() as i32)))
    }

    fn draw<E, DrawFunc: FnMut(i32, i32, BackendColor) -> Result<(), E>>(
        &self,
        text: &str,
        (x, y): BackendCoord,
        mut draw: DrawFunc,
    ) -> Result<Result<(), E>, FontError> {
        let font = FONT.as_ref().ok_or(FontError)?;
        let units = font.units_per_em().ok_or(FontError)?;
        // ab_glyph measures a size from ascender to descender.
        let scale = PxScale::from(self.size as f32 * font.height_unscaled() / units);
        let scaled = font.as_scaled(scale);
        let baseline = y as f32 + (BASELINE * self.size) as f32;
        let mut pen = x as f32;
        let mut previous = None;
        for c in text.chars() {
            let id = font.glyph_id(c);
            if let Some(previous) = previous {
                pen += scaled.kern(previous, id);
            }
            previous = Some(id);
            let glyph = id.with_scale_and_position(scale, point(pen, baseline));
            pen += scaled.h_advance(id);
            let Some(outline) = font.outline_glyph(glyph) else { continue };
            let corner = outline.px_bounds().min;
            let mut result = Ok(());
            outline.draw(|dx, dy, coverage| {
                if result.is_ok() && coverage > 0.0 {
                    let color = self.color.with_alpha(f64::from(coverage.min(1.0)));
                    let at = (corner.x as i32 + dx as i32, corner.y as i32 + dy as i32);
                    result = draw(at.0, at.1, color);
                }
            });
            if result.is_err() {
                return Ok(result);
            }
        }
        Ok(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_those_of_arial() {
        // Advance widths of Arial in 1/2048 em: A 1366, V 1366, 0 1139, space 569.
        assert!((text_width("0", 2048.0) - 1139.0).abs() < 0.5);
        assert!((text_width(" ", 2048.0) - 569.0).abs() < 0.5);
        assert!((text_width("A", 10.0) - 6.67).abs() < 0.01);
        assert!(text_width("AV", 2048.0) < 2.0 * 1366.0, "kerned");
        assert_eq!(text_width("", 10.0), 0.0);
    }

    #[test]
    fn long_texts_keep_their_ends() {
        assert_eq!(shortened("short", 8.0, 100.0), "short");
        let long = shortened("lstm, option=1, another=2", 8.0, 50.0);
        assert!(long.starts_with("lst") && long.ends_with("=2") && long.contains('…'), "{long}");
        assert!(text_width(&long, 8.0) <= 50.0);
        assert_eq!(shortened("anything", 8.0, 0.0), "…");
    }

    #[test]
    fn the_symbols_of_plots_are_there() {
        assert!(covers("0123456789 abcXYZ äöüéß αβγσρ −–×·…±≤≥→∂‖µ%√∞".replace('‖', "").as_str()));
        assert!(!covers("漢"));
    }
}
