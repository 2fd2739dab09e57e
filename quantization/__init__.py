"""Storage formats, their arithmetic and exact sizes, and the methods that round matrices to them."""
