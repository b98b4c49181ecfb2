# Mayfly's own image, which gateways and dispatchers run, and functions' images, which the deployer pushes and
# dispatchers pull. A tag never changes.

resource "aws_ecr_repository" "this" {
  for_each = { mayfly = var.name, functions = "${var.name}/functions" }

  name                 = each.value
  image_tag_mutability = "IMMUTABLE"
  force_delete         = !var.deletion_protection

  encryption_configuration {
    encryption_type = "KMS"
    kms_key         = aws_kms_key.data.arn
  }

  image_scanning_configuration {
    scan_on_push = true
  }

  tags = local.tags
}

# Of functions nothing goes by itself: whoever goes back to an older version, or runs a task once more, wants its image.
resource "aws_ecr_lifecycle_policy" "mayfly" {
  repository = aws_ecr_repository.this["mayfly"].name

  policy = jsonencode({
    rules = [{
      rulePriority = 1
      description  = "What a rollback could want is kept"
      selection    = { tagStatus = "any", countType = "imageCountMoreThan", countNumber = 50 }
      action       = { type = "expire" }
    }]
  })
}
