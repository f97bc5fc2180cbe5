"""How results look to people: pages in a notebook, and figures. What they say is made elsewhere."""
