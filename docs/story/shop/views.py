"""What the shop answers."""

from django.http import JsonResponse

from shop.catalogue import PRODUCTS


def search(request):
    """The ten cheapest products in stock below a price."""
    under = float(request.GET["under"])
    found = [product for product in PRODUCTS if product.price < under and product.stock]
    found.sort(key=lambda product: product.price)
    return JsonResponse({"count": len(found), "first": [one.describe() for one in found[:10]]})


def product(request, number):
    """One product."""
    return JsonResponse(PRODUCTS[number].describe())
