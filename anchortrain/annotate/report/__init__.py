"""Are annotations worth training on? Figures, as text and as a page: `anchortrain annotate report`."""
