"""Components in the engine: what is in them, their values at the library's border, linking them and calling them."""
