"""A trained model at work: it predicts new images, without the data set that it was trained on."""
