"""The plug-in gta-gradcam-zoo: the methods of the package grad-cam as the kind of maps `cam`.

The class is in `gta_gradcam_zoo.kind`, the network that it explains in `gta_gradcam_zoo.network`,
its options in `gta_gradcam_zoo.options`, which need no torch.
"""
