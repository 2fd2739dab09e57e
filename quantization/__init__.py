"""Storage formats, their arithmetic and exact sizes, and the methods that round a matrix to them."""
