"""Numbers that hold where nothing says otherwise, on the command line and in Python."""

#: Long side in pixels of the images that a network is trained and run at.
IMAGE_SIZE = 640
#: Boxes scoring below are not shown.
CONFIDENCE = 0.25
#: Of two boxes of one class that overlap more than this, the lower one goes.
IOU = 0.45
#: Boxes kept an image.
MAX_DETECTIONS = 1000
