from . import image_grids as image_grids, plots as plots
