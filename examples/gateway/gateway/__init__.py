"""An HTTP gateway in front of TensorFlow Serving."""
