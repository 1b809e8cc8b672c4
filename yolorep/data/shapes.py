class ShapesOptions: pass
def parse_shapes(v,f): return None
def render_shapes(o): raise NotImplementedError
