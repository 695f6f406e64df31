"""Records become tables, figures and one page. Run as ``aqr-bench report``."""
