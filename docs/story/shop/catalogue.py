"""The products, read once, before uWSGI forks its workers."""

COUNT = 60_000


class Product:
    """One product, as most applications keep it."""

    def __init__(self, number):
        self.number = number
        self.name = f"product {number}"
        self.price = 1.0 + number % 997 * 0.25
        self.stock = number % 7
        self.tags = [f"brand {number % 211}", f"size {number % 13}"]

    def describe(self):
        return {"number": self.number, "name": self.name, "price": self.price, "tags": self.tags}


PRODUCTS = [Product(number) for number in range(COUNT)]
